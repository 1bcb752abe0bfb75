package main

import "github.com/spf13/cobra"

// plugged are commands that other packages bring.
func plugged() []*cobra.Command { return nil }
