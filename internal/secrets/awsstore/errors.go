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
		failure.Err, failure.Hint = s.explain(limited, err)
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
func (s *Store) explain(ctx context.Context, err error) (explained error, hint string) {
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
		return err, ""
	case ctx.Err() != nil:
		return fmt.Errorf("%s got no answer within %v", operation, s.config.Timeout), "is the service reached from here, and are there credentials? Try: aws sts get-caller-identity"
	case errors.As(err, &dns):
		return fmt.Errorf("the service cannot be reached: %w", dns), "is region in [secrets." + s.Name() + "] right?"
	case errors.As(err, &network):
		return fmt.Errorf("the service cannot be reached: %w", network.Err), "is region or endpoint in [secrets." + s.Name() + "] right?"
	case strings.Contains(err.Error(), "credentials"):
		return errors.New("there are no credentials that can be used"), "say profile in [secrets." + s.Name() + "], or log in, such as with aws sso login"
	}
	return err, ""
}

func (s *Store) explainCode(e smithy.APIError, operation string) (explained error, hint string) {
	switch code := e.ErrorCode(); {
	case code == "ResourceNotFoundException":
		return secrets.ErrNotFound, "there is no such secret or version in the account and region"
	case code == "AccessDeniedException":
		return fmt.Errorf("access denied to %s", operation), "the policy must allow secretsmanager:" + operation + " for that secret"
	case code == "UnrecognizedClientException", code == "InvalidSignatureException", code == "ExpiredTokenException", code == "InvalidClientTokenId":
		return fmt.Errorf("the credentials were refused (%s)", code), "log in anew, such as with aws sso login"
	case code == "InvalidRequestException" && strings.Contains(e.ErrorMessage(), "deletion"):
		return fmt.Errorf("%w: it is scheduled for deletion", secrets.ErrNotFound), "to have it back: aws secretsmanager restore-secret --secret-id NAME"
	default:
		return fmt.Errorf("%s: %s: %s", operation, code, e.ErrorMessage()), ""
	}
}
