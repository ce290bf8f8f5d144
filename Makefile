# SPDX-License-Identifier: GPL-2.0-only
# make help lists the targets.

# What `make sweep` runs: a file of experiments/ without .yml; quick (minutes, for the
# lab) or full (for real hosts); further options of ansible-playbook.
EXPERIMENT = seed-demo
PROFILE = quick
OPTIONS =
# How many connections `make test-servers` makes to each server.
CONNECTIONS = 10000
# The kernels that `make test-debug` boots; it leaves out tests of the library alone. (Tests
# that have to reach a rate are in other files.)
DEBUG_OPTIONS = -k 'not epoll'
KERNELS = 6.1-kasan 6.1-lockdep 6.1-leak 6.12-kasan 6.12-lockdep 6.12-leak

LAB = playbooks/roles/lab/files/lab.sh
# Debian's Python has the modules that the packages below install.
PYTHON = /usr/bin/python3
RUNS = $(patsubst %/samples.csv,%,$(wildcard results/*/*/samples.csv))

# The lab's load generator is this machine. experiments/packages.py cannot tell the packages of load tools before
# Python is installed, so they are read from the tools' own files.
PACKAGES_TOOLS = $(shell sed -n 's/^ *packages = (\([^()]*\)).*/\1/p' experiments/tools/*.py | tr -d '",')
PACKAGES_SWEEP = $(PACKAGES_TOOLS) gcc make libc6-dev libbpf-dev ansible-core qemu-system-x86 mmdebstrap e2fsprogs \
	netcat-openbsd openssh-client iproute2 xz-utils git \
	gnuplot-nox python3-matplotlib python3-pil python3-pandas python3-numpy \
	python3-scipy python3-yaml python3-jinja2
PACKAGES_TEST = chromium python3-pytest python3-pytest-xdist valgrind strace libcmocka-dev linux-headers-amd64 \
	linux-headers-6.12-amd64
PACKAGES_SERVERS = golang-go
PACKAGES_DEBUG = linux-source-6.1 linux-source-6.12 bc bison flex libelf-dev
PACKAGES_LINT = groff-base ansible-lint yamllint shellcheck flake8 sparse linux-source-6.1
PACKAGES_DEB = build-essential debhelper dh-dkms lintian git

# "##@ TITLE" begins a group of targets, "## text" behind a target describes it.
help: ## this list
	@awk 'BEGIN { FS = ":.*## " } /^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  %-14s%s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@printf '\nStart with make demo. What it is all about: README.md, README.zh.md\n'

##@ Look and measure (in an emulated lab, which they boot and stop)

demo: packages-sweep ## three minutes: without and with Fastsocket, live, by the counters
	@demo/live.sh

sweep: packages-sweep ## measure EXPERIMENT=seed-demo, PROFILE=quick; ends with tables, figures and a report
	@experiments/plan.py $(EXPERIMENT) --profile $(PROFILE) --check > /dev/null
	@trap : INT TERM; was=0; $(LAB) status || was=$$?; \
	cd playbooks; status=0; \
	ansible-playbook run-sweep.yml -e experiment=$(EXPERIMENT) -e profile=$(PROFILE) $(OPTIONS) || status=$$?; \
	cd ..; [ $$was = 0 ] || $(LAB) down; \
	[ $$status = 0 ] || echo "the sweep has failed; the reason is above. Once that is mended, this goes on with it, or measures again what could not be had at all: make sweep EXPERIMENT=$(EXPERIMENT) PROFILE=$(PROFILE)" >&2; \
	exit $$status

##@ Check

test: packages-test ## build everything, run all tests; ends with "N passed, N failed"
	@tests/run.py $(OPTIONS)

test-debug: ## tests and fuzzer on kernels with KASAN, lockdep, kmemleak, KERNELS="6.1-kasan ..."; built once, half an hour each
	@tests/debug/build.sh names $(KERNELS)
	@$(MAKE) -s packages-debug
	@tests/debug/build.sh $(KERNELS)
	@LAB_KERNELS="$(KERNELS)" LAB_BOOT_LIMIT=900 $(PYTHON) -m pytest -v -rs tests/guest/test_fuzz.py tests/guest/test_module.py $(DEBUG_OPTIONS) $(OPTIONS)

test-servers: packages-servers ## real servers, with module and kernel backend, in a lab of its own; makes docs/servers.md
	@rm -f results/servers.json
	@LAB_EXTRA=servers SERVER_CONNECTIONS=$(CONNECTIONS) SERVER_RESULTS=$(CURDIR)/results/servers.json \
		$(PYTHON) -m pytest -q -rs tests/servers $(OPTIONS)
	@tests/servers/table.py results/servers.json > docs/servers.md

test-packages: packages-test packages-deb ## packages installed, upgraded, purged in guests of Debian 12 and 13; hours, emulated
	@TEST_PACKAGES=1 $(PYTHON) -m pytest -v -rs tests/packages $(OPTIONS)

test-hosts: packages-test ## the playbooks on two guests of Debian 12, then 13, as on two real hosts: ssh, a user, sudo
	@TEST_HOSTS=1 $(PYTHON) -m pytest -v -rs tests/hosts $(OPTIONS)

lint: packages-lint ## every checker on every file
	@tests/lint.sh

##@ Results

# Fails if RUN names no folder.
known-run = [ -z "$(RUN)" ] || [ -d "$(RUN)" ] || { echo "$(RUN) is not there: ls -d results/*/* lists the runs, and make sweep makes one" >&2; exit 1; }

plots: ## draw the figures of all runs in results/, or of RUN=, again
	@$(known-run)
	@plots/plot.py $(or $(RUN),$(RUNS))

tables: ## make the tables of all runs in results/, or of RUN=, again, and print them
	@$(known-run)
	@experiments/summarise.py $(or $(RUN),$(RUNS))

report: ## write report.html of all runs in results/, or of RUN=
	@$(known-run)
	@plots/plot.py $(or $(RUN),$(RUNS))
	@experiments/report.py $(or $(RUN),$(RUNS))

compare: ## compare the runs A= and B=, or B= with the newest other committed one, and draw it, as OUT=; CHECK=1: status 1 if worse
	@[ -n "$(A)$(B)" ] || { echo "no runs are given: make compare A=$(or $(word 1,$(RUNS)),results/EXPERIMENT/RUN) B=$(or $(word 2,$(RUNS)),results/EXPERIMENT/RUN)" >&2; exit 1; }
	@[ -n "$(B)" ] || { echo "B= is not given: make compare B=$(A) compares $(A) with the newest other committed run of its experiment" >&2; exit 1; }
	@status=0; experiments/compare.py $(if $(CHECK),--check) $(A) $(B) || status=$$?; \
	[ $$status = 2 ] || plots/difference.py $(A) $(B) --out $(or $(OUT),build/compared) || status=1; exit $$status

pack: ## pack the raw files of finished runs, or of RUN=, before they are committed
	@$(known-run)
	@experiments/raws.py $(or $(RUN),$(RUNS))

docs: ## put the tables and figures of committed results into README.md and docs/
	@docs/fill.py
	@docs/reference.py
	@tests/servers/table.py results/servers.json > docs/servers.md

##@ Packages

# A copy is built, so that neither the tree nor its parent gets files of the build.
deb: packages-deb ## Debian packages of this tree, checked by lintian, in build/
	@rm -rf build && mkdir -p build/fastsocket
	@git ls-files -z ':!results' ':!tests' | xargs -0 cp -P --parents -t build/fastsocket || \
		{ echo "make deb needs a checkout of git whose files are all there: see git status" >&2; exit 1; }
	@cd build/fastsocket && { dpkg-buildpackage -us -uc > ../build.log 2>&1 || \
		{ tail -20 ../build.log >&2; echo "the packages were not built: all messages are in build/build.log" >&2; exit 1; }; }
	@lintian --allow-root --fail-on warning build/*.changes
	@rm -rf build/fastsocket && ls build/*.deb

# debian/rules takes the dependencies of the package fastsocket-bench from here.
sweep-depends:
	@echo $(PACKAGES_SWEEP) | sed 's/ /, /g'

##@ The lab, by hand (docs/lab.md)

lab-up: packages-sweep ## boot the lab: CPUS=8, KERNEL=6.1 or 6.12
	@$(LAB) up --cpus $(or $(CPUS),8) --kernel $(or $(KERNEL),6.1)

lab-down: ## stop the lab
	@$(LAB) down

lab-ssh: ## a shell on the lab's server
	@$(LAB) ssh

##@ Tidy up

clean: ## delete what was built, and the lab with its image; results stay
	@$(LAB) clean
	@for part in kmod library demo $(wildcard tests/guest tests/servers); do $(MAKE) -s -C $$part clean; done
	@rm -rf .pytest_cache playbooks/.ansible build
	@find . -name __pycache__ -prune -exec rm -rf {} +

.DEFAULT:
	@echo "there is no target $@: make help lists the targets" >&2; exit 2

# Installs only missing packages, and does not call apt when none is missing.
packages-%:
	@missing=$$(dpkg-query -Wf '$${Package} $${db:Status-Status}\n' $(PACKAGES) 2> /dev/null | \
		awk -v all="$(PACKAGES)" '$$2 == "installed" { have[$$1] = 1 } \
		END { n = split(all, p, " "); for (i = 1; i <= n; i++) if (!(p[i] in have)) printf " %s", p[i] }'); \
	[ -z "$$missing" ] || { \
		[ "$$(id -u)" = 0 ] || { echo "packages are missing, and installing them needs root: run sudo make $(MAKECMDGOALS), or install:$$missing" >&2; exit 1; }; \
		echo "installing:$$missing"; \
		apt-get -qq update || true; \
		DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends $$missing > /dev/null; }

packages-sweep: PACKAGES = $(PACKAGES_SWEEP)
packages-test: PACKAGES = $(PACKAGES_SWEEP) $(PACKAGES_TEST)
packages-servers: PACKAGES = $(PACKAGES_SWEEP) $(PACKAGES_TEST) $(PACKAGES_SERVERS)
packages-debug: PACKAGES = $(PACKAGES_SWEEP) $(PACKAGES_TEST) $(PACKAGES_DEBUG)
packages-lint: PACKAGES = $(PACKAGES_SWEEP) $(PACKAGES_TEST) $(PACKAGES_LINT)
packages-deb: PACKAGES = $(PACKAGES_DEB)

.PHONY: help demo sweep test test-debug test-servers test-packages test-hosts lint plots tables report compare pack docs deb sweep-depends lab-up lab-down \
	lab-ssh clean
