package image

import (
	"context"
	"testing"

	"github.com/postern-cri/postern/test/fixtures"
)

func benchPull(b *testing.B, i fixtures.Image) {
	n := newNode(b)
	must(b, n.reg.PushImage("bench", "1", i))
	must(b, n.reg.SignImage(n.key, "bench", i.Digest()))
	for b.Loop() {
		info, err := n.pull("bench:1")
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		must(b, n.client.Remove(context.Background(), info.ID))
		b.StartTimer()
	}
}

// BenchmarkPullLayers pulls ten layers of 10 MB that do not compress.
func BenchmarkPullLayers(b *testing.B) {
	var layers []fixtures.Layer
	for k := range 10 {
		layers = append(layers, fixtures.RandomLayer(int64(k), 10<<20))
	}
	benchPull(b, fixtures.MakeImage(fixtures.Config{}, layers...))
}

// BenchmarkPullFiles pulls one layer of 30,000 small files.
func BenchmarkPullFiles(b *testing.B) {
	benchPull(b, fixtures.MakeImage(fixtures.Config{}, fixtures.ManyFilesLayer(30000)))
}
