package transport

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/pgfleet/pgfleet/internal/facts"
)

// maxSection bounds what one program's output may claim to be.
const maxSection = 64 << 20

// A section is what one program printed.
type section struct {
	status int
	text   string
}

// A link is where a path with symbolic links leads, as seen by a user.
type link struct{ to, user string }

// hostOutput is the script's output, taken apart.
type hostOutput struct {
	sections map[string]section
	names    map[string][]string
	files    map[string]facts.FileInfo
	links    map[string]link
	problems string // find's and tar's standard error
}

// parse reads the script's output up to the loader's own line.
func (s *hostScript) parse(p *process) (map[facts.Read]facts.Answer, error) {
	out, err := readHostOutput(p.out)
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, p.remoteError("ask the host")
		}
		return nil, &Error{Kind: KindRemote, Op: "ask the host", Err: err}
	}
	return s.answers(out, p.c.user), nil
}

// readHostOutput takes the output apart. It stops in front of the line that
// begins with E.
func readHostOutput(r *bufio.Reader) (*hostOutput, error) {
	out := &hostOutput{
		sections: map[string]section{},
		names:    map[string][]string{},
		files:    map[string]facts.FileInfo{},
		links:    map[string]link{},
	}
	content := map[string][]byte{}
	for {
		tag, err := r.Peek(1)
		if err != nil {
			return nil, err
		}
		switch tag[0] {
		case 'E':
			for p, c := range content {
				if f, ok := out.files[p]; ok {
					f.Content = c
					out.files[p] = f
				}
			}
			return out, nil
		case 'S':
			err = out.readSection(r)
		case 'N':
			err = out.readNames(r)
		case 'M':
			err = out.readMetadata(r)
		case 'L':
			err = out.readLink(r)
		case '/', '.', 0: // it begins with its end if tar could read no file
			err = readArchive(r, content)
		default:
			err = fmt.Errorf("its answer holds %q where a record should begin", tag)
		}
		if err != nil {
			return nil, err
		}
	}
}

func (out *hostOutput) readSection(r *bufio.Reader) error {
	head, err := r.ReadString('\n')
	if err != nil {
		return err
	}
	f := strings.Fields(head[1:])
	if len(f) != 3 {
		return fmt.Errorf("its answer holds the line %q", head)
	}
	status, err1 := strconv.Atoi(f[1])
	length, err2 := strconv.Atoi(f[2])
	if err1 != nil || err2 != nil || length < 0 || length > maxSection {
		return fmt.Errorf("its answer holds the line %q", head)
	}
	text, err := io.ReadAll(io.LimitReader(r, int64(length)))
	if err == nil && len(text) < length {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	if f[0] == "find" {
		out.problems += string(text) + "\n"
		return nil
	}
	out.sections[f[0]] = section{status, string(text)}
	return nil
}

func (out *hostOutput) readNames(r *bufio.Reader) error {
	key, err := r.ReadString('\n')
	if err != nil {
		return err
	}
	key = key[1 : len(key)-1]
	var names []string
	for {
		name, err := r.ReadString(0)
		if err != nil {
			return err
		}
		if len(name) == 1 {
			break
		}
		names = append(names, name[:len(name)-1])
	}
	out.names[key] = append(out.names[key], names...)
	return nil
}

func (out *hostOutput) readLink(r *bufio.Reader) error {
	var f [3]string
	for i := range f {
		s, err := r.ReadString(0)
		if err != nil {
			return err
		}
		f[i] = strings.TrimSuffix(s, "\x00")
	}
	out.links[f[0][1:]] = link{f[1], f[2]}
	return nil
}

func (out *hostOutput) readMetadata(r *bufio.Reader) error {
	p, err := r.ReadString(0)
	if err != nil {
		return err
	}
	fields, err := r.ReadString(0)
	if err != nil {
		return err
	}
	p, fields = p[1:len(p)-1], fields[:len(fields)-1]
	f := strings.Fields(fields)
	if len(f) != 7 {
		return fmt.Errorf("its answer says %q about the file %q", fields, p)
	}
	mode, err1 := strconv.ParseUint(f[3], 8, 32)
	size, err2 := strconv.ParseInt(f[4], 10, 64)
	modified, err3 := unixTime(f[5])
	changed, err4 := unixTime(f[6])
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return fmt.Errorf("its answer says %q about the file %q", fields, p)
	}
	out.files[p] = facts.FileInfo{
		// With find -L only a link that leads nowhere is still a link.
		Exists:   f[0] != "l" && f[0] != "N" && f[0] != "L",
		Dir:      f[0] == "d",
		Regular:  f[0] == "f",
		TooLarge: f[0] == "f" && size > facts.MaxFileSize,
		Owner:    f[1],
		Group:    f[2],
		Mode:     facts.Mode(uint32(mode)),
		Size:     size,
		Modified: modified,
		Changed:  changed,
	}
	return nil
}

// readArchive reads the files of one tar archive to its very end.
func readArchive(r *bufio.Reader, content map[string][]byte) error {
	t := tar.NewReader(r)
	for {
		head, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if head.Size > facts.MaxFileSize {
			// It has grown since find looked.
			if _, err := io.Copy(io.Discard, t); err != nil {
				return err
			}
			continue
		}
		text, err := io.ReadAll(t)
		if err != nil {
			return err
		}
		content[head.Name] = text
	}
}

// unixTime reads seconds with a fraction, exactly.
func unixTime(s string) (time.Time, error) {
	whole, fraction, _ := strings.Cut(strings.TrimSpace(s), ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	var ns int64
	if fraction != "" {
		ns, err = strconv.ParseInt((fraction + "000000000")[:9], 10, 64)
	}
	return time.Unix(sec, ns).UTC(), err
}
