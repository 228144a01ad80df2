package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"orchestrate/internal/config"
	"orchestrate/internal/queue"
	"orchestrate/internal/webhook"
)

type eventsSendOptions struct {
	event, action string
	payload       string
	url           string
	source        string
	secretFile    string
	count         int
	many          bool // --count was given: print a list, whatever its length
}

func newEventsSendCmd(a *App) *cobra.Command {
	o := &eventsSendOptions{}
	cmd := &cobra.Command{
		Use:   "send TYPE",
		Short: "Post an event, signed as GitHub signs it",
		Long: `send posts an event of a type (push), or of a type with an action
(pull_request.closed), with the headers and the signature of GitHub, and prints
the answer. The payload is a built-in example, unless --payload names another.
There are examples for ` + strings.Join(webhook.Examples(), ", ") + `.

It goes to the address that serve of the same configuration listens on, to the
path of the source, signed with the first of its secrets.`,
		Example: `  orchestrate events send push
  orchestrate events send pull_request.closed --count 10
  orchestrate events send deployment --payload deployment.json
  orchestrate events send push --url https://hooks.example.org/webhooks/github --secret-file secret`,
		Args:              args(1, 1, "the type of the event"),
		ValidArgsFunction: cobra.FixedCompletions(webhook.Examples(), cobra.ShellCompDirectiveNoFileComp),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			o.many = cmd.Flags().Changed("count")
			if o.count < 1 || o.count > maxSend {
				return usagef("--count %d: want 1 to %d", o.count, maxSend)
			}
			if err := notEmpty(cmd.Flags(), "payload", "action", "url", "source", "secret-file"); err != nil {
				return err
			}
			if o.event, o.action, err = splitEvent(args[0], o.action); err != nil {
				return err
			}
			return runEventsSend(cmd.Context(), a, o)
		},
	}
	printsList(cmd)
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.payload, "payload", "", "`file` with the payload as JSON; - is standard input")
	f.StringVar(&o.action, "action", "", "`action`, put into the payload")
	f.StringVar(&o.url, "url", "", "where to post; by default to serve of this configuration")
	f.StringVar(&o.source, "source", config.GitHub, "`name` of the source that it comes from")
	f.IntVar(&o.count, "count", 1, "post it `n` times, each with a delivery id of its own")
	f.StringVar(&o.secretFile, "secret-file", "", "`file` with the secret to sign with")
	return cmd
}

const (
	maxSend   = 1_000_000
	maxAnswer = 64 << 10 // bytes of an answer that are read
)

func runEventsSend(ctx context.Context, a *App, o *eventsSendOptions) error {
	body, err := o.body(ctx, a)
	if err != nil {
		return err
	}
	s, err := o.sender(a, body)
	if err != nil {
		return err
	}
	l := newList(a, columns("ID", "DELIVERY", "ROUTES"), func(r queue.Receipt) []string {
		return []string{itoa(r.EventID), r.DeliveryID, strings.Join(r.Routes, ", ")}
	})
	p := a.newProgress("sent %d events")
	for range o.count {
		var r queue.Receipt
		if r, err = s.send(ctx); err != nil {
			break
		}
		if !o.many && a.documents() {
			return a.printJSON(r)
		}
		if err = l.Add(r); err != nil {
			break
		}
		p.show(l.n)
	}
	p.clear()
	if err != nil && l.n == 0 {
		return err
	}
	if err := l.Close(); err != nil {
		return err
	}
	if err != nil {
		return partly(ctx, fmt.Sprintf("sent %d of %d", l.n, o.count), err)
	}
	return nil
}

// body is the payload to send, with the action put into it.
func (o *eventsSendOptions) body(ctx context.Context, a *App) (body []byte, err error) {
	if o.payload != "" {
		body, err = a.readFile(ctx, "--payload", o.payload)
	} else if body, err = webhook.Example(o.event); err != nil {
		err = fmt.Errorf("%w with --payload FILE", err)
	}
	if err != nil || o.action == "" {
		return body, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil || fields == nil {
		return nil, usagef("--action %s: the payload is not a JSON object to put it into", o.action)
	}
	if fields["action"], err = json.Marshal(o.action); err != nil {
		return nil, err
	}
	return json.Marshal(fields)
}

// sender posts one body again and again.
type sender struct {
	url, event string
	body       []byte
	signature  string
	client     *http.Client
}

func (o *eventsSendOptions) sender(a *App, body []byte) (*sender, error) {
	c, err := a.loadConfig()
	if err != nil {
		return nil, err
	}
	path := config.GitHubPath
	if o.source != config.GitHub {
		src := c.Source(o.source)
		if src == nil {
			return nil, usagef("--source %q: there are %s", o.source, strings.Join(c.SourceNames(), ", "))
		}
		path, c.Secrets = src.Path, src.Secrets
	}
	secret, err := o.secret(c)
	if err != nil {
		return nil, err
	}
	s := &sender{
		url: o.url, event: o.event, body: body, signature: webhook.Sign(body, secret.Bytes()),
		client: &http.Client{
			Timeout:       a.timeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	if s.url == "" {
		s.url = "http://" + reachable(c.Listen) + path
	}
	if u, err := url.Parse(s.url); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, usagef("--url %q: want an address as http://127.0.0.1:9000/webhooks/github", s.url)
	}
	return s, nil
}

// reachable is an address to connect to for one that is listened on.
func reachable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// secret is what to sign with: the file's, the first that is configured, or
// the one that serve has made.
func (o *eventsSendOptions) secret(c *config.Config) (config.Secret, error) {
	if o.secretFile != "" {
		path, err := filepath.Abs(o.secretFile)
		if err != nil {
			return config.Secret{}, err
		}
		c = &config.Config{Secrets: []string{"file:" + path}}
	}
	secrets, err := config.ResolveSecrets(c.Secrets)
	if err != nil {
		return config.Secret{}, err
	}
	if len(secrets) > 0 {
		return secrets[0], nil
	}
	path := secretPath(c)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return config.Secret{}, fmt.Errorf(
			"no secret to sign with: none is configured, and serve has made none at %s; start orchestrate serve, or give --secret-file", path)
	}
	s, _, err := config.GenerateSecret(path) // it is there: this reads it, with its checks
	return s, err
}

// send posts the body under a new delivery id.
func (s *sender) send(ctx context.Context) (queue.Receipt, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(s.body))
	if err != nil {
		return queue.Receipt{}, err
	}
	for key, value := range map[string]string{
		"Accept": "*/*", "Content-Type": "application/json", "User-Agent": "GitHub-Hookshot/orchestrate",
		webhook.HeaderEvent: s.event, webhook.HeaderDelivery: uuid.NewString(), webhook.HeaderHookID: "1",
		webhook.HeaderSignature:                  s.signature,
		"X-GitHub-Hook-Installation-Target-Type": "repository", "X-GitHub-Hook-Installation-Target-ID": "1",
	} {
		req.Header.Set(key, value)
	}
	res, err := s.client.Do(req)
	if err != nil {
		return queue.Receipt{}, fmt.Errorf("%w; does orchestrate serve listen there?", err)
	}
	defer func() { _ = res.Body.Close() }() // only read
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return queue.Receipt{}, fmt.Errorf("read the answer of %s: %w", s.url, err)
	}
	return s.receipt(res, answer)
}

// receipt reads the answer.
func (s *sender) receipt(res *http.Response, answer []byte) (r queue.Receipt, err error) {
	if res.StatusCode != http.StatusOK {
		return r, fmt.Errorf("%s answered %s: %s (it said: %s)", s.url, res.Status, meaning(res.StatusCode),
			printable(queue.Clean(strings.TrimSpace(string(answer)))))
	}
	if err := json.Unmarshal(answer, &r); err != nil {
		return r, fmt.Errorf("%s answered 200, but not as orchestrate does; is that its address? %w", s.url, err)
	}
	return r, nil
}

// meaning is what an answer other than 200 asks of the operator.
func meaning(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "the signature was refused; does it have another secret? give it with --secret-file"
	case http.StatusNotFound:
		return "nothing is received at that path; see --url"
	case http.StatusBadRequest:
		return "the payload or the type was refused; is the payload a JSON object?"
	case http.StatusRequestEntityTooLarge:
		return "the payload is too large"
	case http.StatusServiceUnavailable:
		return "it can't store events now; its log tells why"
	}
	return "it was not stored"
}
