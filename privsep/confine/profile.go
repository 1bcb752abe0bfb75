package confine

import "golang.org/x/sys/unix"

// profile is what a role may keep. The table below is the whole story: a right
// that is not written here is gone.
type profile struct {
	name         string
	root         bool   // stays uid 0
	mayGainPrivs bool   // no no_new_privs: its children are containers
	keepCaps     uint64 // bounding set, and permitted set for roles that stay root
	landlock     bool
	tcpBind      bool     // Landlock lets it bind TCP ports
	tcpConnect   bool     // Landlock lets it connect by TCP
	families     []uint64 // of socket(2)
	calls        []callSet
	execIsEPERM  bool // a library may try to execute a program: refuse, do not kill
	nofile       uint64
	data         uint64 // RLIMIT_DATA
	memory       int64  // soft heap limit
	gogc         int
	brief        bool // ends before its heap is worth shrinking
}

const (
	mib     = 1 << 20
	allCaps = uint64(1)<<(unix.CAP_LAST_CAP+1) - 1
)

// helperDrops are capabilities that neither the helper nor any container it
// makes can have: each is a way to the kernel or to the node's clock, log or
// audit, and no pod specification needs one.
const helperDrops = 1<<unix.CAP_SYS_MODULE | 1<<unix.CAP_SYS_RAWIO | 1<<unix.CAP_SYS_BOOT |
	1<<unix.CAP_SYS_TIME | 1<<unix.CAP_SYSLOG | 1<<unix.CAP_MAC_ADMIN | 1<<unix.CAP_MAC_OVERRIDE |
	1<<unix.CAP_AUDIT_CONTROL | 1<<unix.CAP_AUDIT_READ | 1<<unix.CAP_PERFMON |
	1<<unix.CAP_CHECKPOINT_RESTORE | 1<<unix.CAP_LINUX_IMMUTABLE | 1<<unix.CAP_SYS_PACCT |
	1<<unix.CAP_WAKE_ALARM | 1<<unix.CAP_BLOCK_SUSPEND

const cniCaps = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_SYS_ADMIN

var (
	local    = []uint64{unix.AF_UNIX}
	internet = []uint64{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6}
)

var profiles = map[Role]profile{
	Helper: {name: "helper", root: true, mayGainPrivs: true, keepCaps: allCaps &^ helperDrops, gogc: 50},
	// CNI plugins run iptables and sysctl: both work with no_new_privs.
	CNI: {name: "cni", root: true, keepCaps: cniCaps, nofile: 1024, gogc: 100, brief: true},

	// The front end connects to pods for port-forward, by sockets that the helper
	// made in their network namespaces, and never listens by TCP.
	Front: {name: "front", landlock: true, tcpConnect: true, families: internet,
		calls: []callSet{files, sockets, memfds}, nofile: 65536, gogc: 50},
	// The stream server's one TCP listener comes open from init.
	Stream: {name: "stream", landlock: true, families: local,
		calls: []callSet{sockets, pipes}, nofile: 16384, gogc: 50},
	Log: {name: "log", landlock: true, families: local,
		calls: []callSet{sockets, pipes, files}, nofile: 65536, gogc: 50},
	// Two evaluations at once, each 50 ms at most, stay far below the limit.
	Policy: {name: "policy", landlock: true, families: local,
		calls: []callSet{sockets, files, watches}, nofile: 1024, memory: 96 * mib, gogc: 50},
	Audit: {name: "audit", landlock: true, families: local,
		calls: []callSet{sockets, files}, nofile: 1024, memory: 24 * mib, gogc: 50},
	Fetch: {name: "fetch", landlock: true, tcpConnect: true, families: internet, execIsEPERM: true,
		calls: []callSet{sockets, files, memfds, pipes}, nofile: 4096, data: 2048 * mib, memory: 512 * mib, gogc: 75},
	Verify: {name: "verify", landlock: true, families: local, execIsEPERM: true,
		calls: []callSet{sockets, files, memfds, pipes}, nofile: 1024, data: 2048 * mib, memory: 1024 * mib, gogc: 75, brief: true},
	Convert: {name: "convert", landlock: true,
		calls: []callSet{sockets, memfds, pipes, anonymousFiles}, nofile: 256, data: 2048 * mib, memory: 1024 * mib, gogc: 75, brief: true},
}
