package main

import "errors"

// DoctorCmd checks the gateway's lnd.
type DoctorCmd struct{}

// Run implements the command.
func (DoctorCmd) Run() error { return errors.New("not wired") }
