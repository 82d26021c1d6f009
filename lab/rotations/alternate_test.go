//go:build lab

package rotations

import "testing"

func TestLabFirstRotation(t *testing.T) {
	b := newBench(t, alternate+inPlace)
	t.Log(b.Want(0, "rotate", "shop", "--plan").All())
	t.Log(b.Want(0, "rotate", "shop", "--yes").All())
	t.Log(b.Want(0, "rotate", "shop", "--yes").All())
	t.Log(b.Want(0, "rotate", "svc", "--yes").All())
	t.Log(b.Want(0, "rotate", "svc", "--yes").All())
	t.Log(b.Want(0, "rotate", "--status").All())
	t.Log(b.Want(0, "rotate", "shop", "--yes", "--rollback").All())
}
