package erofs

import (
	"encoding/binary"
	"fmt"
	"sort"
	"strings"
)

// xattrIndex splits a full name into the number of its namespace and the rest.
func xattrIndex(name string) (uint8, string, error) {
	for _, p := range xattrPrefixes {
		if rest, ok := strings.CutPrefix(name, p.prefix); ok && p.whole == (rest == "") {
			if len(rest) > MaxName {
				break
			}
			return p.index, rest, nil
		}
	}
	return 0, "", fmt.Errorf("extended attribute %.80q cannot be stored", name)
}

// xattrName is xattrIndex's inverse.
func xattrName(index uint8, rest string) (string, error) {
	for _, p := range xattrPrefixes {
		if p.index == index && p.whole == (rest == "") {
			return p.prefix + rest, nil
		}
	}
	return "", fmt.Errorf("extended attribute of namespace %d with a name of %d bytes", index, len(rest))
}

// encodeXattrs returns the inline area that follows an inode; it is empty where
// there are none. Its length is a multiple of 4.
func encodeXattrs(list []Xattr) ([]byte, error) {
	if len(list) == 0 {
		return nil, nil
	}
	sorted := append([]Xattr(nil), list...)
	sort.Slice(sorted, func(i, j int) bool { return sorted[i].Name < sorted[j].Name })
	b := make([]byte, xattrHeader, 128)
	for i, x := range sorted {
		if i > 0 && sorted[i-1].Name == x.Name {
			return nil, fmt.Errorf("extended attribute %.80q is there twice", x.Name)
		}
		index, rest, err := xattrIndex(x.Name)
		if err != nil {
			return nil, err
		}
		if len(x.Value) > 0xffff || len(b)+len(x.Value) > MaxXattrs {
			return nil, fmt.Errorf("extended attributes of more than %d bytes", MaxXattrs)
		}
		b = append(b, uint8(len(rest)), index)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(x.Value)))
		b = append(append(b, rest...), x.Value...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
	}
	if len(b) > MaxXattrs {
		return nil, fmt.Errorf("extended attributes of more than %d bytes", MaxXattrs)
	}
	return b, nil
}

// xattrCount is i_xattr_icount for an area of n bytes.
func xattrCount(n int) uint16 {
	if n == 0 {
		return 0
	}
	return uint16((n-xattrHeader)/4 + 1)
}

// decodeXattrs is encodeXattrs' inverse. Shared attributes are not written and
// so not read.
func decodeXattrs(b []byte) ([]Xattr, error) {
	if len(b) == 0 {
		return nil, nil
	}
	if len(b) < xattrHeader || b[4] != 0 {
		return nil, fmt.Errorf("extended attributes are cut or shared")
	}
	var list []Xattr
	seen := map[string]bool{}
	for b = b[xattrHeader:]; len(b) > 0; {
		if len(b) < 4 {
			return nil, fmt.Errorf("extended attributes are cut")
		}
		nameLen, index, valueLen := int(b[0]), b[1], int(binary.LittleEndian.Uint16(b[2:]))
		size := int(roundUp(int64(4+nameLen+valueLen), 4))
		if size > len(b) {
			return nil, fmt.Errorf("an extended attribute is longer than its inode")
		}
		name, err := xattrName(index, string(b[4:4+nameLen]))
		if err != nil {
			return nil, err
		}
		if seen[name] || strings.IndexByte(name, 0) >= 0 {
			return nil, fmt.Errorf("extended attribute %.80q is there twice or has no valid name", name)
		}
		seen[name] = true
		list = append(list, Xattr{name, append([]byte(nil), b[4+nameLen:4+nameLen+valueLen]...)})
		b = b[size:]
	}
	return list, nil
}
