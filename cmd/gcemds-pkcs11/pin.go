package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
)

const maxPIN = 4 << 10

// readPIN returns the PIN that is referred to. Its errors do not repeat a reference that is none: it may be the PIN.
func readPIN(reference string, in *bufio.Reader) (string, error) {
	kind, rest, _ := strings.Cut(reference, ":")
	var pin []byte
	var err error
	switch {
	case reference == "":
		return "", nil
	case reference == "stdin":
		pin, err = in.ReadSlice('\n')
	case kind == "env" && rest != "":
		pin = []byte(os.Getenv(rest))
	case kind == "file" && rest != "":
		pin, err = readPINFile(rest)
	default:
		return "", errors.New("--pin takes a reference: file:PATH, env:NAME or stdin")
	}
	if err != nil {
		return "", fmt.Errorf("cannot read the PIN: %w", err)
	}
	pin = bytes.TrimSuffix(bytes.TrimSuffix(pin, []byte("\n")), []byte("\r"))
	if len(pin) == 0 {
		return "", fmt.Errorf("the PIN at %s is empty", reference)
	}
	return string(pin), nil
}

func readPINFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return nil, fmt.Errorf("%s can be used by others than its owner (mode %04o); run: chmod 600 %s", path, mode, path)
	}
	return io.ReadAll(io.LimitReader(f, maxPIN))
}
