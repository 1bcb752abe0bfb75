package fetch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containers/image/v5/pkg/docker/config"
	"github.com/containers/image/v5/types"

	"github.com/postern-cri/postern/privsep/layout"
)

func TestAuthFile(t *testing.T) {
	dir := t.TempDir()
	l := layout.New(dir)
	if err := os.MkdirAll(l.FetchState(), 0o700); err != nil {
		t.Fatal(err)
	}
	usual := filepath.Join(dir, "auth.json")
	defer func(old []string) { authFiles = old }(authFiles)
	authFiles = []string{filepath.Join(dir, "missing.json"), usual}

	if b, err := ReadAuth(""); b != nil || err != nil {
		t.Fatalf("without a file: %q, %v", b, err)
	}
	if _, err := ReadAuth(filepath.Join(dir, "missing.json")); err == nil || !strings.Contains(err.Error(), "image.auth_file") {
		t.Errorf("a named file that is missing: %v", err)
	}
	// "user:secret"
	if err := os.WriteFile(usual, []byte(`{"auths":{"registry.example.com":{"auth":"dXNlcjpzZWNyZXQ="}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := ReadAuth("")
	if err != nil {
		t.Fatal(err)
	}
	kept, err := KeepAuth(l, b)
	if err != nil {
		t.Fatal(err)
	}
	got, err := config.GetCredentials(&types.SystemContext{AuthFilePath: kept}, "registry.example.com")
	if err != nil || got.Username != "user" || got.Password != "secret" {
		t.Errorf("credentials: %+v, %v", got, err)
	}
	if kept, err := KeepAuth(l, nil); kept != "" || err != nil {
		t.Errorf("dropping them: %q, %v", kept, err)
	}
	if left, _ := filepath.Glob(l.FetchState() + "/*"); len(left) != 0 {
		t.Errorf("credentials stay behind: %v", left)
	}
}
