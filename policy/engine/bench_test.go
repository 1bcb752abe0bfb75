package engine

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/postern-cri/postern/policy/input"
	"github.com/postern-cri/postern/privsep/gate"
)

// plainQuestion is a CreateContainer that restricted permits.
func plainQuestion(b *testing.B) gate.Question {
	for _, d := range corpusQuestions(200) {
		e := New(redactor)
		e.Use(compile(b, profileOpen(b)))
		if d.Method == "CreateContainer" && e.Decide(context.Background(), "helper", d).Decision.Allow {
			return d
		}
	}
	b.Fatal("no question is permitted")
	return gate.Question{}
}

func profileOpen(t testing.TB) Files {
	f := profile(t, "restricted")
	f[dataFile] = []byte(`{"postern_config":{"require_signature":false}}`)
	return f
}

// BenchmarkDecide is the whole of a decision: sections to answer. The budget of
// docs/BUDGETS.md is 0.3 ms in the middle and 2 ms at the 99th percentile.
func BenchmarkDecide(b *testing.B) {
	for name, files := range map[string]Files{"restricted": profileOpen(b), "restricted-denied": profile(b, "restricted"), "allow-all": profile(b, "allow-all")} {
		b.Run(name, func(b *testing.B) {
			q := plainQuestion(b)
			e := New(redactor)
			e.Use(compile(b, files))
			var took []time.Duration
			b.ReportAllocs()
			for b.Loop() {
				start := time.Now()
				e.Decide(context.Background(), input.RoleHelper, q)
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	files := profile(b, "restricted")
	for b.Loop() {
		if _, err := Compile(context.Background(), files); err != nil {
			b.Fatal(err)
		}
	}
}
