package config

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// SecretVariable holds the secrets of webhooks, one a line, and replaces those
// that the file refers to.
const SecretVariable = "GITHUB_WEBHOOK_SECRET" //nolint:gosec // G101: a name

const (
	envPrefix  = "env:"
	filePrefix = "file:"

	maxSecrets   = 64 << 10 // bytes of one reference
	enoughSecret = 16       // bytes
	redacted     = "[redacted]"
)

// Secret is a key that webhooks are signed with. It prints as [redacted],
// whatever the verb; Bytes is the only way to it.
type Secret struct {
	value func() []byte // not the bytes, since fmt prints unexported fields without asking
	from  string
}

// NewSecret keeps a value and the reference that it came from.
func NewSecret(value []byte, from string) Secret {
	value = bytes.Clone(value)
	return Secret{func() []byte { return value }, from}
}

// Bytes is the secret itself.
func (s Secret) Bytes() []byte {
	if s.value == nil {
		return nil
	}
	return s.value()
}

// From is the reference that the secret came from.
func (s Secret) From() string { return s.from }

// Warning tells what is weak about the secret; "" if nothing is.
func (s Secret) Warning() string {
	if len(s.Bytes()) < enoughSecret {
		return fmt.Sprintf("a secret from %s has less than %d bytes and could be guessed", s.from, enoughSecret)
	}
	return ""
}

func (s Secret) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (s Secret) GoString() string { return redacted }

// Format implements fmt.Formatter, for the verbs that String does not serve.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler, and with it JSON and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// checkReference refuses what is no reference. It may be the secret itself, so
// it is not printed.
func checkReference(s string) error {
	name, isEnv := strings.CutPrefix(s, envPrefix)
	path, isFile := strings.CutPrefix(s, filePrefix)
	if isEnv && checkVariable(name) == nil || isFile && path != "" && checkPath(path) == nil {
		return nil
	}
	return errors.New("no reference; " + writeReference)
}

const writeReference = "write env:NAME or file:PATH, never the secret itself (what stands there is not shown)"

// absolute makes the paths of references so.
func (l *loader) absolute(refs []string) []string {
	for i, ref := range refs {
		if path, ok := strings.CutPrefix(ref, filePrefix); ok {
			path, err := l.beside(path)
			l.fail("", err)
			refs[i] = filePrefix + path
		}
	}
	return refs
}

// IsReference tells whether a value names a secret instead of standing for
// itself.
func IsReference(s string) bool {
	return strings.HasPrefix(s, envPrefix) || strings.HasPrefix(s, filePrefix)
}

// SecretError is ErrInvalid and says which reference yields no secret.
type SecretError struct {
	Index int // in the list of references
	Ref   string
	Err   error
}

func (e *SecretError) Error() string        { return "secret " + e.Ref + ": " + e.Err.Error() }
func (e *SecretError) Unwrap() error        { return e.Err }
func (e *SecretError) Is(target error) bool { return target == ErrInvalid }

// ResolveSecret reads a reference that names one secret. Its errors are
// *SecretError.
func ResolveSecret(ref string) (Secret, error) {
	all, err := ResolveSecrets([]string{ref})
	if err == nil && len(all) > 1 {
		err = &SecretError{0, ref, fmt.Errorf("holds %d secrets; leave one line", len(all))}
	}
	if err != nil {
		return Secret{}, err
	}
	return all[0], nil
}

// ResolveSecrets reads what the references name: none if there are none. All
// of the secrets are valid at once; one that stands there twice is returned
// once. Its errors are *SecretError, joined.
func ResolveSecrets(refs []string) ([]Secret, error) {
	var all []Secret
	var errs []error
	for i, ref := range refs {
		lines, err := resolve(ref)
		if err != nil {
			errs = append(errs, &SecretError{i, ref, err})
		}
		for _, line := range lines {
			if !slices.ContainsFunc(all, func(s Secret) bool { return bytes.Equal(s.Bytes(), line) }) {
				all = append(all, NewSecret(line, ref))
			}
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return all, nil
}

func resolve(ref string) ([][]byte, error) {
	if name, ok := strings.CutPrefix(ref, envPrefix); ok {
		value, set := os.LookupEnv(name)
		if !set {
			return nil, errors.New("the variable is not set; set it, or name another")
		}
		return secretLines([]byte(value))
	}
	b, err := read(strings.TrimPrefix(ref, filePrefix), maxSecrets, func(*os.File) error { return nil })
	if err != nil {
		return nil, fmt.Errorf("%w; write the secret there, or name another file", err)
	}
	return secretLines(b)
}

// secretLines splits at line ends, LF or CRLF; blanks belong to the secret,
// empty lines don't count.
func secretLines(b []byte) ([][]byte, error) {
	var secrets [][]byte
	for line := range bytes.Lines(b) {
		if bare, ok := bytes.CutSuffix(line, []byte("\n")); ok {
			line = bytes.TrimSuffix(bare, []byte("\r"))
		}
		if len(line) > 0 {
			secrets = append(secrets, line)
		}
	}
	if secrets == nil {
		return nil, errors.New("set but empty; write the secret there")
	}
	return secrets, nil
}

// KeptSecret is GenerateSecret without making one.
func KeptSecret(path string) (s Secret, created bool, err error) {
	s, err = keptSecret(path)
	return s, false, err
}

// GenerateSecret returns the secret that is kept at path, and makes a random
// one if there is none, with the directory (0700) where it is missing. Processes
// that start at once all get the same. Errors are ErrInvalid; a file that others
// can read is one.
func GenerateSecret(path string) (s Secret, created bool, err error) {
	s, err = keptSecret(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return s, false, err
	}
	err = createSecret(path)
	if err != nil && !errors.Is(err, fs.ErrExist) { // which another process that was first makes
		return Secret{}, false, fmt.Errorf("%w: make a secret: %w", ErrInvalid, err)
	}
	created = err == nil
	s, err = keptSecret(path)
	return s, created, err
}

func keptSecret(path string) (Secret, error) {
	ref := filePrefix + path
	b, err := read(path, maxSecrets, checkPrivate)
	if err != nil {
		return Secret{}, fmt.Errorf("%w: secret %s: %w", ErrInvalid, ref, err)
	}
	lines, err := secretLines(b)
	switch {
	case err != nil:
		return Secret{}, fmt.Errorf("%w: secret %s: %w", ErrInvalid, ref, err)
	case len(lines) > 1:
		return Secret{}, fmt.Errorf("%w: %s holds %d secrets; to use several, name it in the configuration: secrets: [%q]", ErrInvalid, path, len(lines), ref)
	}
	return NewSecret(lines[0], ref), nil
}

// RandomSecret is a new secret: 256 bits as 64 hex digits.
func RandomSecret() string {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails: it ends the program instead
	return hex.EncodeToString(key)
}

// createSecret writes aside and links into place, so that whoever sees the file
// sees all of it, and nothing that is there is ever overwritten.
func createSecret(path string) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".secret-*") // 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, err = fmt.Fprintln(f, RandomSecret())
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}
