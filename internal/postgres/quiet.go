package postgres

// A QuietParameter is one whose value keeps a statement's text out of the
// server's log, its statistics or its views.
type QuietParameter struct{ Name, Value string }

// QuietParameters returns what a session sets before a statement that holds a password or a verifier. Those that a
// server does not have are left alone. pgaudit is left on: it keeps a record without the password.
// log_min_messages is too, because it would take that record away. Whether a transaction's statements
// are logged as part of a sample is decided when it begins, so before that the session sets
// log_transaction_sample_rate to 0 as well.
func QuietParameters() []QuietParameter {
	return []QuietParameter{
		{"log_statement", "none"}, {"log_duration", "off"},
		{"log_min_duration_statement", "-1"}, {"log_min_duration_sample", "-1"},
		{"log_min_error_statement", "panic"},
		{"debug_print_parse", "off"}, {"debug_print_rewritten", "off"}, {"debug_print_plan", "off"},
		{"track_activities", "off"},
		{"pg_stat_statements.track", "none"}, {"pg_stat_statements.track_utility", "off"},
		{"auto_explain.log_min_duration", "-1"},
	}
}
