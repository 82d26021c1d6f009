package transport

// Refresh implements [Conn].
func (h *host) Refresh() {
	h.pg.mu.Lock()
	free := h.pg.free
	h.pg.free = nil
	h.pg.mu.Unlock()
	for _, s := range free {
		if h.c.sessions.unpark(s.parked) { // else it is being closed for somebody
			s.close()
		}
	}
}
