package main

import (
	"fmt"

	"github.com/postern-cri/postern/test/fixtures"
)

const (
	e2e     = "e2e-test-images/"
	staging = "k8s-staging-cri-tools/"
)

// pushAll makes and pushes every image that critest 1.36 asks for, but one:
// test-image-digest is named by the digest of bytes that nobody else can make.
func pushAll(r *fixtures.Registry, busyboxFile string) error {
	base, err := fixtures.BusyboxTree(busyboxFile)
	if err != nil {
		return err
	}
	web, err := fixtures.NginxTree(80)
	if err != nil {
		return err
	}
	hostWeb, err := fixtures.NginxTree(12003)
	if err != nil {
		return err
	}
	apache, err := apacheTree()
	if err != nil {
		return err
	}
	nnp, pause := fixtures.Tree{}, fixtures.Tree{}
	if err := nnp.Copy("/proc/self/exe", "nnp", 0o4755); err != nil {
		return err
	}
	if err := pause.Copy("/proc/self/exe", "pause", 0o755); err != nil {
		return err
	}
	busybox := base.Layer()
	// with is a busybox image that runs as user; mark makes its digest its own.
	with := func(user, mark string, more ...fixtures.Layer) fixtures.Image {
		layers := append([]fixtures.Layer{busybox}, more...)
		if mark != "" {
			layers = append(layers, fixtures.MakeLayer(fixtures.File{Name: "image-id", Body: mark}))
		}
		return fixtures.MakeImage(fixtures.Config{Cmd: []string{"sh"}, User: user}, layers...)
	}
	serve := fixtures.Config{Cmd: []string{"nginx", "-g", "daemon off;"}}
	same := with("", "tags")
	images := map[[2]string]fixtures.Image{
		{e2e + "busybox", "1.29-2"}: with("", ""),
		{e2e + "nginx", "1.14-2"}:   fixtures.MakeImage(serve, busybox, web.Layer()),
		{e2e + "httpd", "2.4.39-4"}: fixtures.MakeImage(fixtures.Config{
			Cmd: []string{"httpd", "-f", "/etc/apache2/httpd.conf", "-DFOREGROUND"}}, busybox, apache.Layer()),
		{e2e + "nonewprivs", "1.3"}:                            fixtures.MakeImage(fixtures.Config{Entrypoint: []string{"/nnp"}}, nnp.Layer()),
		{"pause", "3.9"}:                                       fixtures.MakeImage(fixtures.Config{Entrypoint: []string{"/pause"}, User: "65535:65535"}, pause.Layer()),
		{staging + "hostnet-nginx-amd64", "latest"}:            fixtures.MakeImage(serve, busybox, hostWeb.Layer()),
		{staging + "test-image-latest", "latest"}:              with("", "latest"),
		{staging + "test-image-tag", "test"}:                   with("", "tag-test"),
		{staging + "test-image-tag", "all"}:                    with("", "tag-all"),
		{staging + "test-image-tags", "1"}:                     same,
		{staging + "test-image-tags", "2"}:                     same,
		{staging + "test-image-tags", "3"}:                     same,
		{staging + "test-image-1", "latest"}:                   with("", "1"),
		{staging + "test-image-2", "latest"}:                   with("", "2"),
		{staging + "test-image-3", "latest"}:                   with("", "3"),
		{staging + "test-image-user-uid", "latest"}:            with("1002", ""),
		{staging + "test-image-user-username", "latest"}:       with("www-data", ""),
		{staging + "test-image-user-uid-group", "latest"}:      with("1003:100", ""),
		{staging + "test-image-user-username-group", "latest"}: with("www-data:100", ""),
		{staging + "test-image-predefined-group", "latest"}:    with("1000", "", predefined.Layer()),
	}
	for name, i := range images {
		if err := r.PushImage(name[0], name[1], i); err != nil {
			return fmt.Errorf("%s:%s: %w", name[0], name[1], err)
		}
	}
	return nil
}

// predefined is a user that the image itself puts into a group.
var predefined = fixtures.Tree{
	"etc/passwd": {Body: fixtures.Passwd + "default-user:x:1000:1000::/home/default-user:/bin/sh\n"},
	"etc/group":  {Body: fixtures.Group + "default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n"},
}
