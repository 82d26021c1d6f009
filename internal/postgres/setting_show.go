package postgres

import "strconv"

// Show returns a value of pg_settings as SHOW prints it: a number with the
// largest unit that it is a whole number of (ShowGUCOption in guc.c). What is no
// number with a unit is returned as it is.
func (s Setting) Show(value string) string {
	n, err := strconv.ParseInt(value, 10, 64)
	units, _ := s.units()
	if err != nil || n <= 0 || s.VarType != "integer" {
		return value
	}
	for _, u := range units {
		count := float64(n) / u.factor
		if whole := int64(count); float64(whole) == count && whole > 0 {
			return strconv.FormatInt(whole, 10) + u.name
		}
	}
	return value
}
