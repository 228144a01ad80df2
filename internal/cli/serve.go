package cli

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"orchestrate/internal/config"
	"orchestrate/internal/queue"
	"orchestrate/internal/server"
	"orchestrate/internal/store"
)

type serveOptions struct {
	noProcess bool
	insecure  bool
}

func newServeCmd(a *App) *cobra.Command {
	o := &serveOptions{}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Receive webhooks and process them",
		Long: `serve receives GitHub's webhooks at /webhooks/github of its listen address, and at
the paths of its sources, stores each before it answers, and runs what the routes
that want it start. The admin address answers /livez and /readyz.

It starts without any configuration: on the loopback, with a database in the
state directory, which it creates, and with a random secret that it keeps beside
it. Where the signature is not checked, anybody who reaches the port can start
your commands.

SIGHUP reads the configuration again, all of it or, where anything is wrong, none:
the old one stays then, and the log and orchestrate status say why. What runs goes
on. listen, admin_listen, database and log.format take a restart.

The first SIGINT or SIGTERM drains: nothing more is claimed, what runs may end
within drain_timeout, and webhooks are received until then. The second one kills
what runs and stops at once; what ran then runs again later.`,
		Example: `  orchestrate serve
  orchestrate serve --config /etc/orchestrate/config.yaml
  orchestrate serve --listen :9000 --concurrency 20
  orchestrate serve --no-process      # and elsewhere: orchestrate process`,
		Args: args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return runServe(cmd.Context(), a, o) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	addKeyFlag(f, "listen", "listen")
	addKeyFlag(f, "admin_listen", "admin-listen")
	f.BoolVar(&o.noProcess, "no-process", false, "only receive; leave the work to orchestrate process")
	addWorkerFlags(f)
	f.BoolVar(&o.insecure, "insecure-skip-signature", false, "accept webhooks that nobody signed; for trying only")
	return cmd
}

// service is what serve runs.
type service struct {
	app           *App
	o             *serveOptions
	wired         *wired
	store         queue.Store
	queue         *queue.Queue
	server        *server.Server
	intake, admin net.Listener
	draining      context.Context // ends when the drain begins
}

func runServe(ctx context.Context, a *App, o *serveOptions) error {
	a.daemon, a.live = true, true
	a.runs = func(string) bool { return !o.noProcess }
	a.catchHangups()
	keepToOurselves()
	w, err := a.wire()
	if err != nil {
		return err
	}
	s := &service{app: a, o: o, wired: w}
	if s.intake, err = listen(ctx, "listen", w.config.Listen); err != nil {
		return err
	}
	defer func() { _ = s.intake.Close() }() // serving has closed it, if it came so far
	if s.admin, err = listen(ctx, "admin-listen", w.config.AdminListen); err != nil {
		return err
	}
	defer func() { _ = s.admin.Close() }()
	if s.queue, err = a.queue(ctx); err != nil {
		return err
	}
	s.store = a.store
	if err := store.KeepReserve(w.config.DatabaseURL()); err != nil {
		w.log.WarnContext(ctx, "no room for a reserve: a cleanup of a full disk may need room made by other means", "error", err.Error())
	}
	sources, err := s.sources(ctx, w, config.GenerateSecret) // may make a secret, in the directory that the database has made
	if err != nil {
		return err
	}
	boundMemory()
	s.server, err = server.New(server.Options{
		Receiver: s.queue, Sources: sources, Ready: s.ready, Admin: s.adminHost(ctx), Log: w.log,
	})
	if err != nil {
		return err
	}
	w.warn(ctx)
	if err := s.queue.WarnUnknownRoutes(ctx); err != nil {
		return err
	}
	return s.run(ctx)
}

// sources are where deliveries come in, with the secrets that verify them.
func (s *service) sources(ctx context.Context, w *wired, kept keeper) ([]server.Source, error) {
	if s.o.insecure {
		w.log.WarnContext(ctx, "signatures are not checked: whoever reaches the port can start every command", "listen", w.config.Listen)
	}
	secrets, err := w.secrets()
	if err != nil {
		return nil, err
	}
	if len(secrets[0]) == 0 && !s.o.insecure {
		secret, err := s.keptSecret(ctx, kept)
		if err != nil {
			return nil, err
		}
		secrets[0] = []config.Secret{secret}
	}
	sources := []server.Source{{Name: config.GitHub, Path: config.GitHubPath, Insecure: s.o.insecure}}
	for _, src := range w.config.Sources {
		sources = append(sources, server.Source{Name: src.Name, Path: src.Path, Insecure: s.o.insecure})
	}
	for i, all := range secrets {
		w.redact.add(all...)
		for _, secret := range all {
			if why := secret.Warning(); why != "" {
				w.log.WarnContext(ctx, "weak secret", "source", sources[i].Name, "reason", why)
			}
			sources[i].Secrets = append(sources[i].Secrets, secret.Bytes())
		}
	}
	return sources, nil
}

// keeper returns the secret that is kept in a file, and whether it made it.
type keeper func(path string) (s config.Secret, created bool, err error)

// keptSecret is the one beside the database, which the first start makes.
func (s *service) keptSecret(ctx context.Context, kept keeper) (config.Secret, error) {
	path := secretPath(s.wired.config)
	if s.wired.config.OnServer() { // each receiver would make one of its own
		return config.Secret{}, fmt.Errorf("%w: secrets: none is configured, and several processes may receive for %s: give all of them the same by %s, or by secrets in the configuration",
			config.ErrInvalid, s.wired.config.Database, config.SecretVariable)
	}
	secret, created, err := kept(path)
	if created {
		s.wired.log.WarnContext(ctx, "no secret is configured: made one", "path", path,
			"next", "put what this file holds into the field Secret of the webhook in GitHub's settings")
	}
	return secret, err
}

// boundMemory has the collector keep up with large bodies, instead of letting
// as much garbage grow beside them: ten and their copies took 870 MB. Whoever
// sets GOMEMLIMIT knows better.
func boundMemory() {
	const asideOfBodies = 128 << 20
	if debug.SetMemoryLimit(-1) == math.MaxInt64 {
		debug.SetMemoryLimit(server.DefaultLimits().Memory + asideOfBodies)
	}
}

// adminHost is the host of admin_listen. Others than the loopback are allowed,
// for probes from elsewhere, but nobody opens one unawares.
func (s *service) adminHost(ctx context.Context) string {
	if at, ok := s.admin.Addr().(*net.TCPAddr); !ok || !at.IP.IsLoopback() {
		s.wired.log.WarnContext(ctx, "the admin listener can be reached from other machines; it asks for no password", "admin_listen", s.wired.config.AdminListen)
	}
	host, _, _ := net.SplitHostPort(s.wired.config.AdminListen) // it was listened on
	return host
}

// portPatience is how long a port in use is tried again: a serve that was killed
// leaves it to its last command until that has begun.
const portPatience = 2 * time.Second

// listen opens an address, so that a port in use is told before anything
// starts.
func listen(ctx context.Context, flag, address string) (net.Listener, error) {
	ctx, cancel := context.WithTimeout(ctx, portPatience)
	defer cancel()
	tick := time.NewTicker(portPatience / 20)
	defer tick.Stop()
	for {
		ln, err := (&net.ListenConfig{}).Listen(context.WithoutCancel(ctx), "tcp", address)
		switch {
		case err == nil:
			return ln, nil
		case !errors.Is(err, syscall.EADDRINUSE):
			return nil, fmt.Errorf("%w; choose another address with --%s", err, flag)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("listen on %s: the port is in use; stop what uses it, or choose another with --%s", address, flag)
		}
	}
}

// ready tells why this process should get no webhooks; nil if it should.
func (s *service) ready() error {
	select {
	case <-s.store.Broken():
		return s.store.WhyBroken()
	case <-s.draining.Done():
		return errors.New("draining")
	default:
	}
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	if err := s.store.CheckSchema(ctx); err != nil {
		return err
	}
	return s.store.CheckWrites(ctx)
}

const readyTimeout = 2 * time.Second

// run serves until ctx ends or a part fails; the first part that ends stops
// the others. Claims drain first, while webhooks are still received, and the
// admin listener tells until the last that this process is not ready.
func (s *service) run(ctx context.Context) error {
	ctx, drain := context.WithCancel(ctx)
	defer drain()
	s.draining = ctx
	intake, stopIntake := context.WithCancel(context.WithoutCancel(ctx))
	defer stopIntake()
	admin, stopAdmin := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAdmin()
	part := func(run func() error) <-chan error {
		ended := make(chan error, 1)
		go func() {
			defer drain()
			ended <- run()
		}()
		return ended
	}
	adminEnded := part(func() error { return s.server.ServeAdmin(admin, s.admin) })
	intakeEnded := part(func() error { return s.server.ServeIntake(intake, s.intake) })
	workEnded := part(func() error { return s.queue.Work(ctx, s.workerOptions()) })
	reloads, stopReloads := context.WithCancel(context.WithoutCancel(ctx)) // also while it drains: a secret may have to go at once
	defer stopReloads()
	reloadEnded := s.app.startReloads(reloads, s.queue, s.follow)
	s.wired.log.InfoContext(ctx, "ready", "url", "http://"+s.intake.Addr().String()+config.GitHubPath, "admin", s.admin.Addr().String(),
		"database", s.wired.config.Database, "routes", s.wired.queue.RouteNames(), "containment", s.wired.containmentText(), "version", s.wired.version)
	err := <-workEnded
	stopReloads()
	awaitReload(reloadEnded)
	stopIntake()
	err = errors.Join(err, <-intakeEnded)
	stopAdmin()
	return errors.Join(err, <-adminEnded)
}

// follow readies the sources of another configuration.
func (s *service) follow(next *wired) (func(), error) {
	sources, err := s.sources(context.Background(), next, config.KeptSecret)
	if err != nil {
		return nil, err
	}
	return s.server.Sources(sources)
}

// workerOptions are those of a worker, which claims nothing where others do the
// work: it still shows that this process lives, and watches over the database.
func (s *service) workerOptions() queue.WorkerOptions {
	o := s.wired.workerOptions()
	if s.o.noProcess {
		o.Routes = []string{}
	}
	return o
}
