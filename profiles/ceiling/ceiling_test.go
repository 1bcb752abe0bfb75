package ceiling

import (
	"testing"

	"github.com/postern-cri/postern/privsep/ceiling"
)

func TestShippedCeilingsParse(t *testing.T) {
	for _, n := range Names() {
		b, ok := Shipped(n)
		if !ok {
			t.Fatalf("%s is missing", n)
		}
		c, err := ceiling.Parse(n+".toml", b)
		if err != nil {
			t.Fatal(err)
		}
		if c.Profile != n {
			t.Errorf("%s.toml calls itself %q", n, c.Profile)
		}
		if wide := len(c.HostPaths) > 0; wide != (n == "conformance") {
			t.Errorf("%s has %d host path classes", n, len(c.HostPaths))
		}
	}
	if _, ok := Shipped("../baseline"); ok {
		t.Error("a name with a path was found")
	}
}
