package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"orchestrate/internal/queue"

	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATEs: postgresql.org/docs/current/errcodes-appendix.html.
const (
	codeDeadlock      = "40P01"
	codeSerialization = "40001"
	codeClosed        = "OR001" // of our own triggers
)

// isDeadlock: another transaction was in the way, and this one was rolled back.
func isDeadlock(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && (e.Code == codeDeadlock || e.Code == codeSerialization)
}

// isCheck: a counter would have gone below 0. A statement checks an event as its
// snapshot has it, before it sees that another transaction has moved on both the
// event and the job that it looked at; run again it sees both.
func isCheck(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && e.Code == "23514"
}

// isLocked: another session holds a row.
func isLocked(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && e.Code == "55P03"
}

// isReadOnly: the server is a standby, or was told to refuse writes.
func isReadOnly(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && e.Code == "25006"
}

// isAway: no connection could be made.
func isAway(err error) bool {
	var e *pgconn.ConnectError
	return errors.As(err, &e)
}

// isBroken: the connection can't be used any more.
func isBroken(err error) bool {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return strings.HasPrefix(e.Code, "08") || strings.HasPrefix(e.Code, "57P") || e.Code == "25P03"
	}
	var network net.Error
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, pgconn.ErrConnClosed) ||
		errors.Is(err, net.ErrClosed) || errors.As(err, &network) || pgconn.Timeout(err) || pgconn.SafeToRetry(err)
}

// unavailable are the classes and codes that say that the database can't be
// used now, with what an operator can do about it.
var unavailable = []struct{ prefix, next string }{
	{"08P01", "behind PgBouncer, add default_query_exec_mode=exec to the URL"},
	{"08", "is the server running, and can it be reached?"},
	{"28", "check the user and the password: in the URL, PGPASSWORD or ~/.pgpass, and the server's pg_hba.conf"},
	{"3D000", "create it with createdb, or name another with --database"},
	{"3F000", "GRANT this user the right to use and create in the database's schema, or name one by search_path in the URL"},
	{"42501", "GRANT this user the right to use and create in the database's schema"},
	{"53100", "make room on the server's disk"},
	{"53300", "raise the server's max_connections, or lower pool_max_conns in the URL"},
	{"53", "the server has not enough resources"},
	{"55P03", "another session holds a lock: see pg_locks"},
	{"57014", "it took too long: is the server overloaded?"},
	{"57P03", "the server is starting up: try again"},
	{"57P", "the server was stopped: is it being restarted?"},
	{"58", "see the server's log"},
	{"25006", "the server is read-only, as a standby is: name the primary, or add target_session_attrs=read-write to the URL"},
	{"25P0", "see the server's log"},
	{"40", "other transactions are in the way: try again"},
	{codeClosed, "see: orchestrate status"},
	{"XX", "see the server's log"},
	{"F0", "see the server's log"},
}

// lineError is an error of connecting, of which the driver tells each try in a
// line of its own: with TLS and without, for each address. The last one says it.
type lineError struct{ err *pgconn.ConnectError }

func (e lineError) Error() string {
	text := e.err.Error()
	return "connect: " + strings.TrimSpace(text[strings.LastIndex(text, "\n")+1:])
}

func (e lineError) Unwrap() error { return e.err }

func inOneLine(err error) error {
	var e *pgconn.ConnectError
	if errors.As(err, &e) {
		return lineError{e}
	}
	return err
}

// classifyServer gives an error of PostgreSQL or of the way to it its meaning;
// nil if it has none there.
func classifyServer(err error) error {
	err = inOneLine(err)
	var e *pgconn.PgError
	if errors.As(err, &e) {
		for _, u := range unavailable {
			if strings.HasPrefix(e.Code, u.prefix) {
				return fmt.Errorf("%w: %w; %s", queue.ErrUnavailable, err, u.next)
			}
		}
		if e.Code == "22021" {
			return fmt.Errorf("%w: the text is not valid UTF-8", queue.ErrInvalid)
		}
		if isAway(err) { // such as a setting of the URL that the server does not know
			return fmt.Errorf("%w: %w; check the URL's parameters", queue.ErrUnavailable, err)
		}
		if e.Code == "42P01" || e.Code == "42703" { // a table or column is missing
			return fmt.Errorf("%w: %w; run: orchestrate migrate", queue.ErrSchema, err)
		}
		return nil
	}
	switch {
	case isAway(err) && errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", queue.ErrUnavailable, err)
	case isAway(err):
		return fmt.Errorf("%w: %w; is the server running, and are host, port and TLS as it wants them?", queue.ErrUnavailable, err)
	case isBroken(err):
		return fmt.Errorf("%w: %w", queue.ErrUnavailable, err)
	}
	return nil
}
