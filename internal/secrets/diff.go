package secrets

import (
	"regexp"
	"slices"
	"strings"
)

// What follows a mask where both sides of a diff would look the same although they
// differ, and where the new value cannot be known before apply.
const (
	changedNote = " (changed)"
	unknownNote = " (known after apply)"
)

// RedactLines prepares the two sides of a diff: old is what was found on a host, new
// is rendered text in which placeholders stand for secrets. It returns both without
// any value of a secret, such that a line that stays the same is equal on both
// sides, and one whose secret changes is not: "password = •••• (changed)". The
// caller makes the diff of what is returned.
//
// lookup returns the values of references, as for [Expand]; those that it does not
// know are shown as "(known after apply)". A nil r knows the forms of secrets only.
//
// An old line is shown in the clear only if the new text has the same line, or, in
// its place, a line with the same name at its start and no placeholder. If new has
// a placeholder anywhere, all other old lines are masked, as each may be what a
// secret used to be: where secrets were, others may have been. Neighbouring masked
// lines become one, so that not even their number is seen. An error says that a
// placeholder was changed.
func RedactLines(old, new string, lookup func(Ref) (Secret, bool), r *Redactor) (maskedOld, maskedNew string, err error) {
	if r == nil {
		r = NewRedactor()
	}
	d := &lineRedactor{
		oldLines: splitLines(old),
		literals: make(map[string]bool),
		names:    make(map[string]bool),
		reserved: make(map[string]bool),
		shownOld: make(map[string]bool),
		forms:    r,
		values:   NewRedactor(),
	}
	var lines []newLine
	for _, text := range splitLines(new) {
		l, err := d.makeNewLine(text, lookup)
		if err != nil {
			return "", "", err
		}
		lines = append(lines, l)
	}
	shownOld := d.old()
	for _, shown := range shownOld {
		d.shownOld[shown] = true
	}
	var shownNew []string
	for _, l := range lines {
		shownNew = append(shownNew, d.new(l))
	}
	return strings.Join(shownOld, ""), strings.Join(shownNew, ""), nil
}

// A lineRedactor holds what has to be known of both sides to mask one line.
type lineRedactor struct {
	oldLines []string
	shownOld map[string]bool // what is shown of them

	secret   []newLine       // the new lines with placeholders
	literals map[string]bool // the others
	names    map[string]bool // names at the start of the others
	reserved map[string]bool // names at the start of those with placeholders

	forms  *Redactor // the caller's
	values *Redactor // knows the values of this text
}

// A newLine is a line of the new text, with its newline.
type newLine struct {
	text     string   // with placeholders
	secret   bool     // it has placeholders
	known    bool     // all values of which are known
	expanded []string // the lines as they will be on the host, if known
	beside   []string // what stands before, between and after the placeholders
	literals int      // how many bytes of it are not placeholders
}

// like reports whether a line differs from l in the secrets' values alone.
func (l newLine) like(line string) bool {
	line, found := strings.CutPrefix(line, l.beside[0])
	if !found {
		return false
	}
	last := len(l.beside) - 1
	for _, s := range l.beside[1:last] {
		if _, line, found = strings.Cut(line, s); !found {
			return false
		}
	}
	return strings.HasSuffix(line, l.beside[last])
}

func (d *lineRedactor) makeNewLine(text string, lookup func(Ref) (Secret, bool)) (newLine, error) {
	parts, err := split(text)
	if err != nil {
		return newLine{}, err
	}
	l := newLine{text: text, known: true, beside: []string{""}}
	var expanded strings.Builder
	for _, p := range parts {
		if !p.isRef {
			l.beside[len(l.beside)-1] = p.text
			expanded.WriteString(p.text)
			l.literals += len(strings.TrimSpace(p.text))
			continue
		}
		l.secret = true
		l.beside = append(l.beside, "")
		secret, ok := lookup(p.ref)
		if !ok {
			l.known = false
			continue
		}
		d.values.Add(secret)
		value, err := p.value(lookup)
		if err != nil {
			return newLine{}, err
		}
		expanded.WriteString(value)
	}
	if l.known {
		l.expanded = splitLines(expanded.String())
	}
	if !l.secret {
		d.literals[text] = true
		d.names[name(text)] = true
		return l, nil
	}
	d.secret = append(d.secret, l)
	d.reserved[name(text)] = true
	return l, nil
}

// splitLines cuts text into lines that keep their newlines. A private key in PEM
// form counts as one line, so that it is masked as a whole.
func splitLines(text string) []string {
	var lines []string
	inKey := false
	for line := range strings.Lines(text) {
		if inKey {
			lines[len(lines)-1] += line
		} else {
			lines = append(lines, line)
		}
		if pemBegin.MatchString(line) {
			inKey = true
		}
		if pemEnd.MatchString(line) {
			inKey = false
		}
	}
	return lines
}

var (
	pemBegin = regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----`)
	pemEnd   = regexp.MustCompile(`-----END [A-Z0-9 ]*PRIVATE KEY-----`)
	// nameAtStart finds the name of a setting: a word before = or a space.
	nameAtStart = regexp.MustCompile(`^\s*([A-Za-z_][A-Za-z0-9_.-]*)\s*(?:=|\s)`)
)

func name(line string) string {
	if m := nameAtStart.FindStringSubmatch(line); m != nil {
		return strings.ToLower(m[1])
	}
	return ""
}

// old returns what is shown of the old lines.
func (d *lineRedactor) old() []string {
	var shown []string
	masked := false // the last line shown is a bare mask
	for i := 0; i < len(d.oldLines); {
		if l, n := d.unchanged(d.oldLines[i:]); n > 0 {
			shown = append(shown, d.maskLine(l.text, ""))
			masked = false
			i += n
			continue
		}
		text, clear := d.oldLine(d.oldLines[i])
		if clear || !masked {
			shown = append(shown, text)
		}
		masked = !clear
		i++
	}
	return shown
}

// unchanged returns the new line with a secret that the old ones begin with, and
// how many of them it takes.
func (d *lineRedactor) unchanged(old []string) (newLine, int) {
	for _, l := range d.secret {
		if n := len(l.expanded); n > 0 && n <= len(old) && slices.Equal(l.expanded, old[:n]) {
			return l, n
		}
	}
	return newLine{}, 0
}

// oldLine returns what is shown of an old line that is not in the new text as a
// line with a secret; false if it is a bare mask.
func (d *lineRedactor) oldLine(line string) (string, bool) {
	if d.literals[line] || len(d.secret) == 0 || strings.TrimSpace(line) == "" {
		return d.redact(line), true
	}
	// Like a line with a secret but for its value: that line says what to mask.
	var like newLine
	for _, l := range d.secret {
		if l.literals > like.literals && l.like(line) {
			like = l
		}
	}
	if like.secret {
		return d.maskLine(like.text, ""), true
	}
	if n := name(line); n != "" && d.names[n] && !d.reserved[n] {
		return d.redact(line), true
	}
	return Mask + newlineOf(line), false
}

// new returns what is shown of a new line, given what is shown of the old ones.
func (d *lineRedactor) new(l newLine) string {
	if l.secret && !l.known {
		return d.maskLine(l.text, unknownNote)
	}
	shown, lines := d.maskLine(l.text, ""), l.expanded
	if !l.secret {
		shown, lines = d.redact(l.text), []string{l.text}
	}
	// A note is needed only where the mask hides a difference.
	if shown != l.text && d.shownOld[shown] && !contains(d.oldLines, lines) {
		return addNote(shown, changedNote)
	}
	return shown
}

// contains reports whether the wanted lines stand one after another among lines.
func contains(lines, wanted []string) bool {
	for i := 0; i+len(wanted) <= len(lines); i++ {
		if slices.Equal(lines[i:i+len(wanted)], wanted) {
			return true
		}
	}
	return false
}

func (d *lineRedactor) redact(line string) string {
	return d.values.String(d.forms.String(line))
}

// maskLine returns a new line with its placeholders masked, and a note.
func (d *lineRedactor) maskLine(text, note string) string {
	return addNote(d.redact(MaskPlaceholders(text)), note)
}

// addNote puts a note after the last mask in a line.
func addNote(line, note string) string {
	i := strings.LastIndex(line, Mask)
	if i < 0 {
		return strings.TrimSuffix(line, "\n") + note + newlineOf(line)
	}
	i += len(Mask)
	return line[:i] + note + line[i:]
}

func newlineOf(line string) string {
	if strings.HasSuffix(line, "\n") {
		return "\n"
	}
	return ""
}
