# make demo and make test are all that a fresh Debian 12 machine needs; both want root, because the
# hosts of the lab are real ones.
SHELL := /bin/bash
HOSTS ?= 4
VERSION ?= 15
LAB := bin/lab

.PHONY: build test unit labtest demo bench soak lint lab-up lab-down lab-shell clean

build: ## bin/pgfleet
	go build -trimpath -o bin/pgfleet ./cmd/pgfleet

test: ## everything, on real hosts too
	go run ./lab/cmd/testreport

unit: ## what needs neither root nor the lab
	go test ./...

soak: ## everything at full length
	PGFLEET_SOAK=1 go run ./lab/cmd/testreport

bench: ## pgfleet plan on 8 real hosts, and backups on one, as ratios to a floor measured beside them
	go run ./lab/cmd/bench

demo: build $(LAB) ## the main job on real hosts
	./lab/demo.sh

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	go vet ./... && go vet -tags lab ./...
	go tool -modfile=tools.mod golangci-lint run --build-tags lab ./...

$(LAB): FORCE
	go build -o $(LAB) ./lab/cmd/lab
FORCE:

lab-up: $(LAB) ## make lab-up HOSTS=4 VERSION=15
	$(LAB) up --hosts $(HOSTS) --version $(VERSION)

lab-down: $(LAB)
	$(LAB) down

lab-shell: $(LAB) ## make lab-shell HOST=pg01
	$(LAB) shell $(HOST)

clean:
	rm -rf bin
