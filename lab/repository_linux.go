package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// writePackageIndex makes a folder of .deb files a flat apt repository: it
// writes Packages (deb-control(5), repository format of Debian's wiki).
func writePackageIndex(ctx context.Context, dir string) error {
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return err
	}
	var index bytes.Buffer
	for _, deb := range debs {
		control, err := output(exec.CommandContext(ctx, "dpkg-deb", "--field", deb))
		if err != nil {
			return err
		}
		content, err := os.ReadFile(deb)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(content)
		fmt.Fprintf(&index, "%sFilename: ./%s\nSize: %d\nSHA256: %s\n\n", control, filepath.Base(deb), len(content), hex.EncodeToString(sum[:]))
	}
	return os.WriteFile(filepath.Join(dir, "Packages"), index.Bytes(), 0o644)
}
