package mount

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// option is one fsconfig call.
type option struct {
	key, value string
	flag       bool
}

// mountFS makes a file system and attaches it at target, an existing directory.
//
// Expected syscalls: fsopen, fsconfig, fsmount, move_mount.
func mountFS(kind, target string, attrs int, opts ...option) error {
	fs, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("fsopen %s: %w", kind, err)
	}
	defer unix.Close(fs)
	for _, o := range opts {
		if o.flag {
			err = unix.FsconfigSetFlag(fs, o.key)
		} else {
			err = unix.FsconfigSetString(fs, o.key, o.value)
		}
		if err != nil {
			return fmt.Errorf("%s: option %s: %w", kind, o.key, withLog(fs, err))
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fmt.Errorf("%s: %w", kind, withLog(fs, err))
	}
	m, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return fmt.Errorf("fsmount %s: %w", kind, err)
	}
	defer unix.Close(m)
	return attach(m, target)
}

// withLog adds the kernel's own words, which it leaves in the context fd.
func withLog(fs int, err error) error {
	buf := make([]byte, 512)
	if n, rerr := unix.Read(fs, buf); rerr == nil && n > 2 {
		return fmt.Errorf("%w (%s)", err, buf[2:n])
	}
	return err
}

// EROFS mounts the image in f, read-only, at target, all of it with that label. From Linux 6.12 the kernel
// reads the file itself; before, a loop device stands between.
func EROFS(f *os.File, target, label string) error {
	attrs := unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV
	self := "/proc/self/fd/" + strconv.Itoa(int(f.Fd()))
	err := mountFS("erofs", target, attrs, labelled(label, option{key: "source", value: self}, option{key: "ro", flag: true})...)
	if err == nil || !errors.Is(err, unix.ENOTBLK) {
		return err
	}
	loop, err := attachLoop(f)
	if err != nil {
		return err
	}
	defer loop.Close() // autoclear: the device goes with the mount
	return mountFS("erofs", target, attrs, labelled(label, option{key: "source", value: loop.Name()}, option{key: "ro", flag: true})...)
}

// labelled adds the SELinux label of everything in a file system, where there is
// one.
func labelled(label string, opts ...option) []option {
	if label != "" {
		opts = append(opts, option{key: "context", value: label})
	}
	return opts
}

// attachLoop puts f behind a read-only loop device that clears itself.
//
// Expected syscalls: openat, ioctl(LOOP_CTL_GET_FREE, LOOP_CONFIGURE).
func attachLoop(f *os.File) (*os.File, error) {
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("loop device for an image layer: %w", err)
	}
	defer ctl.Close()
	for range 16 {
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("finding a free loop device: %w", err)
		}
		dev, err := os.OpenFile("/dev/loop"+strconv.Itoa(n), os.O_RDONLY, 0)
		if err != nil {
			return nil, fmt.Errorf("loop device for an image layer: %w", err)
		}
		cfg := unix.LoopConfig{Fd: uint32(f.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR}}
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &cfg)
		if err == nil {
			return dev, nil
		}
		dev.Close()
		if err != unix.EBUSY { // another process took it first
			return nil, fmt.Errorf("configuring a loop device: %w", err)
		}
	}
	return nil, errors.New("no loop device stayed free")
}

// Overlay mounts an overlay at target: lower is lowest first, upper and work are
// directories of one file system, label is the SELinux label of everything in it.
func Overlay(lower []string, upper, work, target, label string) error {
	if noLowerAdd.Load() {
		return overlayOld(lower, upper, work, target, label)
	}
	opts := labelled(label, option{key: "source", value: "postern"})
	for i := len(lower) - 1; i >= 0; i-- { // the kernel wants the topmost first
		opts = append(opts, option{key: "lowerdir+", value: lower[i]})
	}
	if upper != "" {
		opts = append(opts, option{key: "upperdir", value: upper}, option{key: "workdir", value: work})
	}
	err := mountFS("overlay", target, unix.MOUNT_ATTR_NODEV, opts...)
	if err == nil || !errors.Is(err, unix.EINVAL) {
		return err
	}
	if err = overlayOld(lower, upper, work, target, label); err == nil {
		noLowerAdd.Store(true)
	}
	return err
}

// noLowerAdd says that this kernel is known to lack lowerdir+. It writes a line to
// its log each time that it is asked.
var noLowerAdd atomic.Bool

// overlayOld is for kernels without lowerdir+ (before 6.5): one option string of
// at most a page, kept short by naming every directory through an fd.
func overlayOld(lower []string, upper, work, target, label string) error {
	data := "lowerdir="
	for i := len(lower) - 1; i >= 0; i-- {
		fd, err := OpenRoot(lower[i])
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if i < len(lower)-1 {
			data += ":"
		}
		data += "/proc/self/fd/" + strconv.Itoa(fd)
	}
	if upper != "" {
		data += ",upperdir=" + upper + ",workdir=" + work
	}
	if label != "" {
		data += `,context="` + label + `"`
	}
	if err := unix.Mount("postern", target, "overlay", unix.MS_NODEV, data); err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	return nil
}

// Tmpfs mounts an empty tmpfs of at most size bytes at target.
func Tmpfs(target string, size uint64, mode uint32, label string) error {
	return mountFS("tmpfs", target, unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC,
		labelled(label, option{key: "size", value: strconv.FormatUint(size, 10)}, option{key: "mode", value: strconv.FormatUint(uint64(mode), 8)})...)
}
