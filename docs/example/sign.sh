#!/usr/bin/env bash
# sign.sh KEY REGISTRY/REPOSITORY:TAG  Signs an image as "cosign sign --key" does, with openssl and curl alone. The
# registry is spoken to over https; HTTP=1 is for one on loopback. LOGIN=user:password where it wants one.
#   openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out KEY && openssl pkey -in KEY -pubout -out KEY.pub
set -euo pipefail
[ $# = 2 ] || { echo "usage: sign.sh KEY REGISTRY/REPOSITORY:TAG" >&2; exit 2; }
key=$1 name=${2%:*} tag=${2##*:}
base=https://${name%%/*}/v2/${name#*/}; [ -z "${HTTP:-}" ] || base=${base/https/http}
t=$(mktemp -d); trap 'rm -rf "$t"' EXIT
req() { curl -fsS ${LOGIN:+-u "$LOGIN"} "$@"; }
sha() { sha256sum "$1" | cut -d ' ' -f 1; }
req -H 'Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json' \
  -H 'Accept: application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json' \
  "$base/manifests/$tag" > "$t/image"
digest=$(sha "$t/image")
printf '{"critical":{"identity":{"docker-reference":"%s"},"image":{"docker-manifest-digest":"sha256:%s"},"type":"cosign container image signature"},"optional":null}' \
  "$name" "$digest" > "$t/payload"
sig=$(openssl dgst -sha256 -sign "$key" "$t/payload" | base64 -w 0)
printf '{}' > "$t/config"
for f in payload config; do # two blobs and a manifest that names them
  to=$(req -i -X POST "$base/blobs/uploads/" | tr -d '\r' | sed -n 's/^[Ll]ocation: *//p'); case $to in /*) to=${base%%/v2/*}$to;; esac
  case $to in *\?*) to="$to&";; *) to="$to?";; esac
  req -X PUT -H 'Content-Type: application/octet-stream' --data-binary "@$t/$f" "${to}digest=sha256:$(sha "$t/$f")" > /dev/null
done
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,"digest":"sha256:%s"},"layers":[{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","size":%d,"digest":"sha256:%s","annotations":{"dev.cosignproject.cosign/signature":"%s"}}]}' \
  "$(sha "$t/config")" "$(stat -c %s "$t/payload")" "$(sha "$t/payload")" "$sig" > "$t/manifest"
req -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' --data-binary "@$t/manifest" "$base/manifests/sha256-$digest.sig" > /dev/null
echo "signed $name@sha256:$digest"
