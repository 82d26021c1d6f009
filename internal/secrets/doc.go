// Package secrets keeps passwords, keys and verifiers from being seen.
//
// A [Secret] is a value that prints as ••••. A [Ref], written STORE:PATH#KEY,
// names one without holding it; a [Resolver] reads it from its [Store]. Rendered
// text carries a [Placeholder] for each secret, so that plans, diffs and saved
// files are made without any value; [Expand] puts the values in while a file or a
// statement is being sent. What comes back from a host goes through a [Redactor]
// before anybody sees it, and [RedactLines] prepares the two sides of a diff.
// [Digester] makes digests of files that hold secrets with the operator's own key,
// so that nobody can test guesses against a saved plan.
//
// Stores: env (environment variables) and file are for reading; age keeps one
// encrypted file per secret beside fleet.toml and can be written to. Those for
// OpenBao and Vault, AWS Secrets Manager and other programs are packages of their
// own, because of what they depend on. Rotation relies on [WritableStore]: a new
// value is written as pending, proven, and then promoted.
package secrets
