package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"orchestrate/internal/config"
	"orchestrate/internal/queue"
	"orchestrate/internal/store"
)

type configInitOptions struct {
	url        string
	payloadURL string
}

func newConfigInitCmd(a *App) *cobra.Command {
	o := &configInitOptions{}
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a configuration, a secret and a database, and print what GitHub needs",
		Long: `init writes a commented configuration file where serve looks for it, or to the file
of --config, makes the database and a secret beside it, and prints the values to
paste at GitHub. It asks nothing and overwrites nothing: a file that is there is
refused with 5, a secret and a database that are there are kept.

--url is where GitHub reaches this machine from outside, as a reverse proxy or a
tunnel gives it.`,
		Example: `  orchestrate config init
  orchestrate config init --url https://hooks.example.org
  orchestrate config init --config /etc/orchestrate/config.yaml --database /var/lib/orchestrate/orchestrate.db`,
		Args: args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := notEmpty(cmd.Flags(), "config", "url")
			if err != nil {
				return err
			}
			if o.payloadURL, err = payloadURL(o.url); err != nil {
				return err
			}
			return runConfigInit(cmd.Context(), a, o)
		},
	}
	cmd.Flags().StringVar(&o.url, "url", "", "`address` of this machine as GitHub reaches it")
	return cmd
}

// initialised is what init made or found, and what belongs into GitHub's form.
type initialised struct {
	File        string  `json:"file"`
	named       bool    // by --config, so that every command needs it
	Database    string  `json:"database"`
	SecretFile  *string `json:"secret_file"`
	PayloadURL  string  `json:"payload_url"`
	ContentType string  `json:"content_type"`
	Secret      string  `json:"secret"`
}

func runConfigInit(ctx context.Context, a *App, o *configInitOptions) error {
	path, err := config.NewFile(a.config)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(path); err == nil {
		return exists(path)
	}
	c, err := config.Load(config.Options{None: true, Flags: a.configFlags()})
	if err != nil {
		return err
	}
	in := initialised{named: a.config != "", File: path, Database: c.Database, PayloadURL: o.payloadURL, ContentType: "application/json"}
	if _, err := store.MigrateUp(ctx, store.Options{Database: c.DatabaseURL(), Create: true, Timeout: a.timeout}); err != nil {
		return err
	}
	secret, err := initSecret(c, &in)
	if err != nil {
		return err
	}
	in.Secret = string(secret.Bytes())
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := writeNewFile(path, config.Template(c, in.SecretFile != nil, secret.From())); err != nil {
		return err
	}
	return in.print(a)
}

func exists(path string) error {
	return fmt.Errorf("%w: %s exists and is not overwritten; name another with --config, or remove it first", queue.ErrRefused, path)
}

// initSecret is the one that the environment gives, or the one beside the
// database, which is made if it is not there.
func initSecret(c *config.Config, in *initialised) (config.Secret, error) {
	all, err := config.ResolveSecrets(c.Secrets)
	switch {
	case err != nil:
		return config.Secret{}, err
	case len(all) > 0:
		return all[0], nil
	}
	path := secretPath(c)
	in.SecretFile = &path
	s, _, err := config.GenerateSecret(path)
	return s, err
}

// payloadURL is where GitHub is to post to.
func payloadURL(base string) (string, error) {
	if base == "" {
		return "https://YOUR-HOST" + config.GitHubPath, nil
	}
	rest, secure := strings.CutPrefix(base, "https://")
	plain, isHTTP := strings.CutPrefix(base, "http://")
	if !secure && !isHTTP || strings.Trim(rest+plain, "/") == "" || strings.ContainsAny(base, "?# ") {
		return "", usagef("--url %q: want an address as https://hooks.example.org", base)
	}
	base = strings.TrimRight(base, "/")
	if strings.HasSuffix(base, config.GitHubPath) {
		return base, nil
	}
	return base + config.GitHubPath, nil
}

func (in initialised) print(a *App) error {
	if a.documents() {
		return a.printJSON(in)
	}
	secret := "from " + config.SecretVariable
	if in.SecretFile != nil {
		secret = *in.SecretFile
	}
	next := "orchestrate serve"
	if in.named {
		next += " --config " + config.ShellWord(in.File)
	}
	return a.printLine(`configuration  %s
database       %s
secret         %s

At GitHub: Settings, Webhooks, Add webhook
  Payload URL   %s
  Content type  %s
  Secret        %s

Then: %s`, printable(in.File), printable(in.Database), printable(secret), printable(in.PayloadURL), in.ContentType, in.Secret, next)
}
