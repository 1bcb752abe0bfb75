// Package tools pins what the node e2e suite is built from; go.mod says which versions.
package tools

import _ "k8s.io/kubernetes/test/e2e_node" // its test binary is the suite
