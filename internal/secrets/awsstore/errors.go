package awsstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/aws/smithy-go"

	"github.com/pgfleet/pgfleet/internal/secrets"
)

// operation does something with a secret within the store's time limit, and gives
// errors the secret's name.
func (s *Store) operation(ctx context.Context, path string, do func(context.Context, session) error) error {
	limited, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	err := ctx.Err()
	if err == nil {
		var client session
		client.secret = &path
		if client.client, err = s.connect(limited); err == nil {
			err = do(limited, client)
		}
	}
	if err == nil {
		return nil
	}
	failure := &secrets.Error{Store: s.Name(), Path: path, Err: err}
	var h *hintedError
	switch {
	case ctx.Err() != nil:
		failure.Err = ctx.Err()
	case errors.As(err, &h) && error(h) == err: //nolint:errorlint // the outermost error itself
		failure.Err, failure.Hint = h.err, h.hint
	default:
		failure.Hint, failure.Err = s.explain(limited, err)
	}
	return failure
}

// A hintedError carries a hint up to the store's error.
type hintedError struct {
	err  error
	hint string
}

func (e *hintedError) Error() string { return e.err.Error() + "; " + e.hint }
func (e *hintedError) Unwrap() error { return e.err }

func hint(err error, text string) error { return &hintedError{err, text} }

func isCode(err error, code string) bool {
	var e smithy.APIError
	return errors.As(err, &e) && e.ErrorCode() == code
}

// explain turns an error of the SDK into one that says what to do. Neither the SDK nor
// the service put values into theirs
// (https://docs.aws.amazon.com/secretsmanager/latest/apireference/CommonErrors.html).
func (s *Store) explain(ctx context.Context, err error) (hint string, explained error) {
	var api smithy.APIError
	var op *smithy.OperationError
	var network *url.Error
	var dns *net.DNSError
	operation := ""
	if errors.As(err, &op) {
		operation = op.OperationName
	}
	switch {
	case errors.As(err, &api):
		return s.explainCode(api, operation)
	case op == nil:
		return "", err
	case ctx.Err() != nil:
		return "is the service reached from here, and are there credentials? Try: aws sts get-caller-identity", fmt.Errorf("%s got no answer within %v", operation, s.config.Timeout)
	case errors.As(err, &dns):
		return "is region in [secrets." + s.Name() + "] right?", fmt.Errorf("the service cannot be reached: %w", dns)
	case errors.As(err, &network):
		return "is region or endpoint in [secrets." + s.Name() + "] right?", fmt.Errorf("the service cannot be reached: %w", network.Err)
	case strings.Contains(err.Error(), "credentials"):
		return "say profile in [secrets." + s.Name() + "], or log in, such as with aws sso login", errors.New("there are no credentials that can be used")
	}
	return "", err
}

func (s *Store) explainCode(e smithy.APIError, operation string) (hint string, explained error) {
	switch code := e.ErrorCode(); {
	case code == "ResourceNotFoundException":
		return "there is no such secret or version in the account and region", secrets.ErrNotFound
	case code == "AccessDeniedException":
		return "the policy must allow secretsmanager:" + operation + " for that secret", fmt.Errorf("access denied to %s", operation)
	case code == "UnrecognizedClientException", code == "InvalidSignatureException", code == "ExpiredTokenException", code == "InvalidClientTokenId":
		return "log in anew, such as with aws sso login", fmt.Errorf("the credentials were refused (%s)", code)
	case code == "InvalidRequestException" && strings.Contains(e.ErrorMessage(), "deletion"):
		return "to have it back: aws secretsmanager restore-secret --secret-id NAME", fmt.Errorf("%w: it is scheduled for deletion", secrets.ErrNotFound)
	case code == "ValidationException": // its message may quote what was sent
		return "is the secret's name one that the service takes, and is it smaller than 64 kB?", fmt.Errorf("%s: %s", operation, code)
	default:
		return "", fmt.Errorf("%s: %s: %s", operation, code, e.ErrorMessage())
	}
}
