//go:build !linux

package handler

import (
	"os/exec"
	"syscall"
	"time"
)

// DetectContainment finds process groups alone.
func DetectContainment() *Containment { return &Containment{why: "only Linux has cgroups"} }

func (c *Containment) contain(*attemptDir) error { return nil }

func linkedCgroup(*attemptDir) cgroup { return "" }

func (g cgroup) start(cmd *exec.Cmd) error { return cmd.Start() }

func (g cgroup) kill() {}

func (g cgroup) remove(time.Time) error { return nil }

// dieWithParent does nothing: only Linux tells a child of its parent's death.
func dieWithParent(*syscall.SysProcAttr) {}

// awaitExit reaps the leader, as the libraries of these systems can't wait
// without. Its number stays taken while any of its group is left; if none is,
// a signal to the group could reach strangers that got the number since.
func awaitExit(cmd *exec.Cmd) { _ = cmd.Wait() } // what it returns stands in ProcessState

// killLeftovers does nothing: nothing here tells whom a process worked for.
func killLeftovers(string) {}
