package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// tool fails with errNoTool if a program is not there.
func tool(name, debian string) error {
	if _, err := exec.LookPath(name); err != nil {
		return fmt.Errorf("%w: %s is missing (apt-get install %s)", errNoTool, name, debian)
	}
	return nil
}

// mintByTPM has the key in a software TPM, under a handle. The floor is a
// connection to it and one TPM2_Sign with the empty password.
func (b *bench) mintByTPM(ctx context.Context, sa serviceAccount, file string) (mint, error) {
	if err := tool("swtpm", "swtpm"); err != nil {
		return mint{}, err
	}
	state := filepath.Join(b.dir, "tpm")
	if err := os.Mkdir(state, 0o700); err != nil {
		return mint{}, err
	}
	socket := filepath.Join(state, "s")
	chip, err := b.start(ctx, "swtpm", socket, nil, "socket", "--tpm2", "--tpmstate", "dir="+state,
		"--server", "type=unixio,path="+socket, "--ctrl", "type=unixio,path="+socket+".ctrl", "--flags", "not-need-init,startup-clear")
	if err != nil {
		return mint{}, err
	}
	for deadline := time.Now().Add(patience); ; {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
			break
		}
		if err := chip.pause(ctx, time.Millisecond, deadline); err != nil {
			chip.stop()
			return mint{}, err
		}
	}
	const handle = 0x81010002
	device := "unix:" + socket
	imported := exec.CommandContext(ctx, b.gcemds, "tpm", "import", file, "--device", device, "--handle", fmt.Sprintf("%#x", handle))
	if out, err := imported.CombinedOutput(); err != nil {
		chip.stop()
		return mint{}, fmt.Errorf("gcemds tpm import: %w: %s", err, out)
	}
	sign := func(digest []byte) ([]byte, error) {
		c, err := net.Dial("unix", socket)
		if err != nil {
			return nil, err
		}
		t := transport.FromReadWriteCloser(c)
		defer t.Close()
		public, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(handle)}.Execute(t)
		if err != nil {
			return nil, err
		}
		answer, err := tpm2.Sign{
			KeyHandle:  tpm2.AuthHandle{Handle: tpm2.TPMHandle(handle), Name: public.Name, Auth: tpm2.PasswordAuth(nil)},
			Digest:     tpm2.TPM2BDigest{Buffer: digest},
			InScheme:   tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgRSASSA, Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSchemeHash{HashAlg: tpm2.TPMAlgSHA256})},
			Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
		}.Execute(t)
		if err != nil {
			return nil, err
		}
		rsassa, err := answer.Signature.Signature.RSASSA()
		if err != nil {
			return nil, err
		}
		return rsassa.Sig.Buffer, nil
	}
	return mint{
		source: fmt.Sprintf("tpm: {email: %s, key_id: %s, token_uri: '%s', device: '%s', handle: '%#x'}", sa.Email, sa.KeyID, sa.TokenURI, device, handle),
		stop:   chip.stop,
		bare: func(ctx context.Context, audience string) error {
			return sa.assert(ctx, audience, sign)
		},
	}, nil
}

// softHSM is the module of Debian.
const softHSM = "/usr/lib/softhsm/libsofthsm2.so"

// mintByPKCS11 has the key in a software HSM. The floor is a question to the
// same helper program, which has the session open.
func (b *bench) mintByPKCS11(ctx context.Context, sa serviceAccount, _ string) (mint, error) {
	if err := tool("softhsm2-util", "softhsm2"); err != nil {
		return mint{}, err
	}
	if err := tool("cc", "gcc libc6-dev"); err != nil {
		return mint{}, err
	}
	helper := filepath.Join(b.dir, "gcemds-pkcs11")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", helper, ".")
	build.Dir, build.Env = filepath.Join("cmd", "gcemds-pkcs11"), append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		return mint{}, fmt.Errorf("cannot build gcemds-pkcs11 (run this at the root of the repository): %w: %s", err, out)
	}
	tokens, pin, key := filepath.Join(b.dir, "tokens"), filepath.Join(b.dir, "pin"), filepath.Join(b.dir, "key.pem")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		return mint{}, err
	}
	for name, text := range map[string]string{b.softHSMConf(): "directories.tokendir = " + tokens + "\nlog.level = ERROR\n", pin: "5678\n", key: sa.PEM} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			return mint{}, err
		}
	}
	for _, args := range []string{"--init-token --free --label bench --so-pin 1234 --pin 5678", "--import " + key + " --token bench --label k --id 01 --pin 5678"} {
		c := exec.CommandContext(ctx, "softhsm2-util", strings.Fields(args)...)
		c.Env = b.env()
		if out, err := c.CombinedOutput(); err != nil {
			return mint{}, fmt.Errorf("softhsm2-util: %w: %s", err, out)
		}
	}
	const uri = "pkcs11:token=bench;object=k"
	held := exec.CommandContext(ctx, helper, "--module", softHSM, "--pin", "stdin", uri)
	held.Env = b.env()
	in, err := held.StdinPipe()
	if err != nil {
		return mint{}, err
	}
	out, err := held.StdoutPipe()
	if err != nil {
		return mint{}, err
	}
	if err := onCore(b.serving, held.Start); err != nil {
		return mint{}, err
	}
	fmt.Fprintln(in, "5678")
	answers := bufio.NewReader(out)
	sign := func(digest []byte) ([]byte, error) {
		if err := json.NewEncoder(in).Encode(map[string]any{"v": 1, "op": "sign", "alg": "RS256", "digest": digest}); err != nil {
			return nil, err
		}
		line, err := answers.ReadBytes('\n')
		if err != nil {
			return nil, err
		}
		var a struct{ Signature []byte }
		return a.Signature, json.Unmarshal(line, &a)
	}
	return mint{
		source: fmt.Sprintf("pkcs11: {email: %s, key_id: %s, token_uri: '%s', program: %s, module: %s, uri: '%s', pin: 'file:%s', env: [SOFTHSM2_CONF]}",
			sa.Email, sa.KeyID, sa.TokenURI, helper, softHSM, uri, pin),
		stop: func() { in.Close(); held.Wait() },
		bare: func(ctx context.Context, audience string) error {
			return sa.assert(ctx, audience, sign)
		},
	}, nil
}

func (b *bench) softHSMConf() string { return filepath.Join(b.dir, "softhsm2.conf") }
