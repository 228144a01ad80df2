package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"orchestrate/internal/config"
	"orchestrate/internal/queue"
)

func newSecretCmd(a *App) *cobra.Command {
	cmd := newGroup("secret", "Make a secret to sign webhooks with",
		"GitHub signs each delivery with a secret that it shares with orchestrate.")
	cmd.AddCommand(newSecretGenerateCmd(a))
	return cmd
}

func newSecretGenerateCmd(a *App) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "generate",
		Short: "Print a new random secret, or keep it in a file",
		Long: `generate prints a random secret of 64 hexadecimal digits (256 bits), and nothing
else, to standard output. With --file it goes to a new file that only its owner
can read; a file that is there is never overwritten, and the exit code is 5.

It belongs in two places: the Secret field of the webhook at GitHub, and the
configuration, as secrets: ["file:/etc/orchestrate/secret"] or in the variable
` + config.SecretVariable + `. Nothing is configured by this command.`,
		Example: `  orchestrate secret generate
  orchestrate secret generate --file /etc/orchestrate/secret`,
		Args: args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := notEmpty(cmd.Flags(), "file"); err != nil {
				return err
			}
			return runSecretGenerate(a, file)
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "new `file` for it, instead of standard output")
	return cmd
}

// generated is what generate prints in JSON: the secret, or where it is.
type generated struct {
	Secret *string `json:"secret"`
	File   *string `json:"file"`
}

func runSecretGenerate(a *App, file string) error {
	secret := config.RandomSecret()
	if file == "" {
		return a.printSecret(generated{Secret: &secret}, secret,
			"Paste it at GitHub (Settings, Webhooks, Secret), and give it to orchestrate as "+config.SecretVariable+" or in a file.")
	}
	path, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	if err := writeNewFile(path, secret+"\n"); err != nil {
		return err
	}
	return a.printSecret(generated{File: &path}, "wrote "+printable(path),
		fmt.Sprintf("Paste what it holds at GitHub (Settings, Webhooks, Secret), and name it in the configuration: secrets: [%q]", "file:"+path))
}

func (a *App) printSecret(g generated, line, next string) error {
	if a.documents() {
		return a.printJSON(g)
	}
	if err := a.printLine("%s", line); err != nil {
		return err
	}
	a.hint("%s", next)
	return nil
}

// writeNewFile makes a file that only its owner can read, in a directory that
// is there. ErrRefused if something has that name, be it a link to nowhere.
func writeNewFile(path, text string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // G304: the operator names it
	switch {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%w: %s exists and is not overwritten; name another file, or remove it first", queue.ErrRefused, path)
	case err != nil:
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}
