// registry serves images on loopback for the demo and the benchmark: one that is
// signed with the demo key, one that is not signed, one that is signed with
// another key, and larger ones. It writes to its directory
//
//	addr            host:port, once it serves
//	demo.pub        the demo key's public half
//	access.log      METHOD path, one a line
//	NAME.layers     digests of the layers of image demo/NAME
//
// and runs until it gets SIGTERM.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/postern-cri/postern/test/fixtures"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "loopback address to serve at")
	dir := flag.String("dir", "", "directory for the files that describe it")
	large := flag.Bool("large", false, "also make the images of the benchmark: bench/layers:1 and bench/files:1, signed")
	flag.Parse()
	if err := fixtures.Serve(*addr, *dir, func(r *fixtures.Registry) error { return fill(r, *dir, *large) }); err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
}

// fill pushes the images, and writes into dir what tells about them.
func fill(r *fixtures.Registry, dir string, large bool) error {
	key, other := fixtures.NewKey(), fixtures.NewKey()
	base, err := fixtures.BaseLayer()
	if err != nil {
		return err
	}
	for _, name := range []string{"signed", "unsigned", "wrong"} {
		top := fixtures.MakeLayer(fixtures.File{Name: "etc/image", Body: name + "\n"})
		i := fixtures.MakeImage(fixtures.Config{Cmd: []string{"/bin/sh"}}, base, top)
		repo := "demo/" + name
		if err := r.PushImage(repo, "1", i); err != nil {
			return err
		}
		switch name {
		case "signed":
			err = r.SignImage(key, repo, i.Digest())
		case "wrong":
			err = r.SignImage(other, repo, i.Digest())
		}
		if err != nil {
			return err
		}
		var layers []string
		for _, l := range i.Layers {
			// The base layer is the signed image's too: only the image's own can tell
			// in the log who was asked for.
			layers = append(layers, "/v2/"+repo+"/blobs/"+fixtures.Digest(l.Blob))
		}
		if err := os.WriteFile(filepath.Join(dir, name+".layers"), []byte(strings.Join(layers, "\n")+"\n"), 0o644); err != nil {
			return err
		}
	}
	if large {
		if err := bench(r, key, base); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "demo.pub"), key.Public(), 0o644)
}

// bench pushes the images of the pull benchmark.
func bench(r *fixtures.Registry, key *fixtures.Key, base fixtures.Layer) error {
	layers := []fixtures.Layer{base}
	for k := range 10 {
		layers = append(layers, fixtures.RandomLayer(int64(k), 10<<20))
	}
	for repo, i := range map[string]fixtures.Image{
		"bench/layers": fixtures.MakeImage(fixtures.Config{}, layers[1:]...),
		"bench/files":  fixtures.MakeImage(fixtures.Config{}, fixtures.ManyFilesLayer(30000)),
		// What the peer keeps a pod's namespaces with; its own size is not counted.
		"bench/pause": fixtures.MakeImage(fixtures.Config{Cmd: []string{"/bin/sleep", "2147483647"}}, base),
		"bench/small": fixtures.MakeImage(fixtures.Config{Cmd: []string{"/bin/sh"}}, base),
	} {
		if err := r.PushImage(repo, "1", i); err != nil {
			return err
		}
		if err := r.SignImage(key, repo, i.Digest()); err != nil {
			return err
		}
	}
	return nil
}
