package handler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"time"

	"orchestrate/internal/queue"
)

// drainDelay is how long output is waited for when all of the command's process
// group is gone: what left the group may hold the pipe open for ever. What the
// group wrote lies in the pipe by then.
const drainDelay = time.Second

// process is a started command with its process group, of which it is the
// leader, and its cgroup. Its goroutines have ended when watch returns.
type process struct {
	cmd     *exec.Cmd
	cgroup  cgroup
	pipe    *os.File // what comes out of the command
	output  output
	exited  chan struct{} // closed when the leader has exited
	drained chan struct{} // closed when nobody holds the output any more
	asked   bool          // it was sent TERM
	running *Running
}

// start starts a command whose standard input is set.
func start(cmd *exec.Cmd, g cgroup) (*process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = w, w // files: the child writes to them itself
	p := &process{cmd: cmd, cgroup: g, pipe: r, exited: make(chan struct{}), drained: make(chan struct{})}
	started := make(chan error)
	go p.lead(started)
	err = <-started
	_ = w.Close() // the child has it now
	if err != nil {
		_ = r.Close() // nothing was read
		return nil, err
	}
	go p.drain()
	return p, nil
}

// lead starts the command and waits until it has exited. On Linux a child is to
// die with us, and the kernel takes the thread that started it for its parent
// (PR_SET_PDEATHSIG). So this thread is kept until the child has exited. Waiting
// for a child blocks a thread anyway: 1,000 attempts took 7.1 s of CPU time with
// the thread kept, 7.0 s without, 5.8 s of them in fork, exec and exit.
func (p *process) lead(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	confine(p.cmd)
	err := p.cgroup.start(p.cmd)
	started <- err
	if err != nil {
		return
	}
	awaitExit(p.cmd)
	close(p.exited)
}

func (p *process) drain() {
	defer close(p.drained)
	_, _ = io.Copy(&p.output, p.pipe) // the output takes all; reading ends by an end or by our close
}

// watch waits until the command and its group have ended, by themselves or by
// our hand, and tells why it ended them. A worker that stops asks first; where
// the lease is lost or the job cancelled nobody waits for a clean end.
func (p *process) watch(ctx context.Context, timeout, grace time.Duration) (why error) {
	defer p.finish()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-p.exited:
	case <-timer.C:
		why = fmt.Errorf("timed out after %s", timeout)
		p.terminate(ctx.Done(), grace)
	case <-ctx.Done():
		why = context.Cause(ctx)
		if errors.Is(why, queue.ErrStopped) {
			p.terminate(nil, grace)
		}
	}
	return why
}

// terminate asks the group to end and waits for it until the grace is over or
// hurry is closed. The leader may die before its children have cleaned up (a
// shell does), so the end of the output is waited for, too: whoever is left
// holds it.
func (p *process) terminate(hurry <-chan struct{}, grace time.Duration) {
	select {
	case <-p.exited:
		return // by itself, just now
	default:
	}
	p.asked = true
	signalGroup(p.cmd, terminateSignal)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	for _, end := range []<-chan struct{}{p.exited, p.drained} {
		select {
		case <-end:
		case <-timer.C:
			return
		case <-hurry:
			return
		}
	}
}

// kill kills the group, and with a cgroup all that left the group, too. Without
// one, what has started a session of its own (setsid) is out of reach.
func (p *process) kill() {
	signalGroup(p.cmd, os.Kill)
	p.cgroup.kill()
}

// finish leaves nothing running that is in reach.
func (p *process) finish() {
	p.kill()
	<-p.exited
	late := time.NewTimer(drainDelay)
	defer late.Stop()
	select {
	case <-p.drained:
	case <-late.C:
	}
	_ = p.pipe.Close() // only read
	<-p.drained
	p.running.remove(p)
	_ = p.cmd.Wait() // what it returns stands in ProcessState
}
