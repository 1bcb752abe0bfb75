package cli

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/postern-cri/postern/policy/rego"
)

// TestMain lets scripts run `postern policy …`, and `pack NAME DIR`, which
// writes a profile the way `postern up` does.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"postern": func() {
			root := &cobra.Command{Use: "postern"}
			root.AddCommand(Command())
			if root.Execute() != nil {
				os.Exit(1)
			}
		},
		"pack": func() {
			files, ok := rego.Pack(os.Args[1])
			if !ok {
				os.Exit(1)
			}
			for n, b := range files {
				if err := os.WriteFile(os.Args[2]+"/"+n, b, 0o644); err != nil {
					panic(err)
				}
			}
		},
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata"})
}
