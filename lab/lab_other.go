//go:build !linux

package lab

import (
	"context"
	"errors"
	"io"
	"os/exec"
)

var errNotLinux = errors.New("lab: hosts are systemd-nspawn containers: a lab runs on Linux alone")

// Up needs Linux.
func Up(context.Context, Options) (*Lab, error) { return nil, errNotLinux }

// Attach needs Linux.
func Attach(context.Context, string) (*Lab, error) { return nil, errNotLinux }

// Down needs Linux.
func Down(context.Context, string) error { return errNotLinux }

// Install needs Linux.
func Install(context.Context, io.Writer) error { return errNotLinux }

// Base needs Linux.
func Base(context.Context, int, io.Writer) error { return errNotLinux }

// Clean needs Linux.
func Clean() error { return errNotLinux }

// Supervise needs Linux.
func Supervise(context.Context, io.Reader, io.Writer) error { return errNotLinux }

// Guard needs Linux.
func Guard(io.Reader, string) error { return errNotLinux }

// Down needs Linux.
func (l *Lab) Down() error { return errNotLinux }

// Status needs Linux.
func (l *Lab) Status(context.Context) ([]Status, error) { return nil, errNotLinux }

// Status needs Linux.
func (h *Running) Status(context.Context) (Status, error) { return Status{}, errNotLinux }

// Mount needs Linux.
func (h *Running) Mount(context.Context, string, string) error { return errNotLinux }

// Exec needs Linux.
func (h *Running) Exec(context.Context, string) (string, error) { return "", errNotLinux }

// Shell needs Linux.
func (h *Running) Shell(context.Context, ...string) (*exec.Cmd, error) { return nil, errNotLinux }

// Root needs Linux.
func (h *Running) Root() string { return "" }

// Reboot needs Linux.
func (h *Running) Reboot(context.Context) error { return errNotLinux }

// Stop needs Linux.
func (h *Running) Stop(context.Context) error { return errNotLinux }

// Kill needs Linux.
func (h *Running) Kill(context.Context) error { return errNotLinux }

// Start needs Linux.
func (h *Running) Start(context.Context) error { return errNotLinux }

// Wait needs Linux.
func (h *Running) Wait(context.Context, int) error { return errNotLinux }
