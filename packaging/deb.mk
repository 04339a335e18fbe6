# SPDX-License-Identifier: MIT OR Apache-2.0
# The Debian package: included by the Makefile of the top folder and run there.
#
#   make deb      target/debian/app-cluster_VERSION_ARCH.deb
#   make lint-deb lintian on it: errors and warnings fail

CARGO ?= cargo
CARGO_DEB_VERSION := 3.8.0
CARGO_DEB := target/tools/bin/cargo-deb

# Time stamps inside the package: those of the commit, so that two builds of it
# are the same byte for byte.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || date +%s)
export SOURCE_DATE_EPOCH

$(CARGO_DEB):
	$(CARGO) install cargo-deb --locked --version $(CARGO_DEB_VERSION) --root target/tools

# Cargo.toml cannot say "the manual pages that there are".
DEB_SHARE := target/deb-stage/usr/share
# Nor can it make a link: cargo-deb copies one that it finds, as it is.
GENERATORS := target/deb-stage/usr/lib/systemd/system-generators

.PHONY: deb-stage
deb-stage:
	rm -rf target/deb-stage
	install -D -m 644 packaging/deb/README.Debian $(DEB_SHARE)/doc/app-cluster/README.Debian
	for page in behind-a-proxy fate health; do \
	  install -D -m 644 docs/$$page.md $(DEB_SHARE)/doc/app-cluster/$$page.md || exit 1; done
	for page in $(wildcard man/*.[1-8]); do \
	  install -D -m 644 $$page $(DEB_SHARE)/man/man$${page##*.}/$${page##*/} || exit 1; done
	mkdir -p $(GENERATORS)
	ln -s ../../../bin/app-cluster $(GENERATORS)/app-cluster-generator

.PHONY: deb
deb: $(CARGO_DEB) deb-stage ## The Debian package
	$(CARGO) build --release --locked
	$(CARGO_DEB) --no-build --locked --compress-type xz

.PHONY: lint-deb
lint-deb: deb ## lintian on it
	lintian --allow-root --fail-on error,warning --suppress-tags initial-upload-closes-no-bugs \
	  $$(ls -t target/debian/app-cluster_*.deb | head -n 1)
