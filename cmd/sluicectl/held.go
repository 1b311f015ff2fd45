package main

import "errors"

// HeldCmd lists what the interceptor holds.
type HeldCmd struct{}

// Run implements the command.
func (HeldCmd) Run() error { return errors.New("not wired") }
