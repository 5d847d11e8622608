# vmrun: `make demo` boots Debian, `make test` runs the tests. See README.md.

PREFIX ?= /usr/local
DESTDIR ?=
BINDIR ?= $(PREFIX)/bin
MANDIR ?= $(PREFIX)/share/man
DATADIR ?= $(PREFIX)/share

SWIFT ?= swift
PRODUCT := vmrun
BINARY := .build/release/vmrun
MANUAL := man/vmrun.1 man/vmrun-images.5 man/vmrun-devices.7 man/vmrun-internals.7
SWIFT_SOURCES := Package.swift Sources Tests $(wildcard guests)

# The release binary needs nothing but libc where it runs: the Swift runtime, libstdc++, libgcc, libseccomp, libcap, zlib,
# zstd, liblzma, lz4 and libext2fs are linked statically, the last seven from a directory that has only the archives and
# goes first in the search.
# ld.lld, because the others warn of a mktemp() that is never called. Packed relocations (glibc 2.36) are a megabyte less
# to read at each start. Nothing looks symbols up in the program, and those of a static library would be searched at each.
STATIC := $(CURDIR)/.build/static
RELEASE_FLAGS := -c release --static-swift-stdlib --disable-local-rpath -Xswiftc -use-ld=lld \
  -Xswiftc -Xclang-linker -Xswiftc -static-libgcc -Xlinker --strip-all -Xlinker -z -Xlinker pack-relative-relocs -Xlinker --no-export-dynamic

.PHONY: all demo build test test-long guests bench lint format man install uninstall clean
all: build

demo:
	@.ci/packages build debian
	@$(MAKE) --no-print-directory build
	@$(MAKE) --no-print-directory -C guests debian.img
	@echo
	@echo "Booting Debian 12. Log in as root, without a password; poweroff ends it. Ctrl-A x leaves, Ctrl-A h shows the keys."
	@echo
	$(BINARY) --mode hvm --memory 1G --snapshot guests/build/debian.img

build:
	@.ci/packages build
	@mkdir -p $(STATIC)
	@for library in seccomp cap z zstd lzma lz4 ext2fs com_err stdc++; do \
	  ln -sf "$$(gcc -print-file-name=lib$$library.a)" $(STATIC)/; done
	@for package in libseccomp:seccomp libcap:cap zlib:z libzstd:zstd liblzma:lzma liblz4:lz4 ext2fs:ext2fs; do \
	  printf 'Name: %s\nDescription: static\nVersion: 0\nLibs: -L%s -l%s\n' $${package%:*} '$(STATIC)' $${package#*:} \
	    > $(STATIC)/$${package%:*}.pc; done
	PKG_CONFIG_PATH=$(STATIC) $(SWIFT) build --product $(PRODUCT) $(RELEASE_FLAGS)

# Guests run on the program that users get; `make test-long` runs them on the one built with the tests.
test:
	@.ci/packages build test
	@$(MAKE) --no-print-directory build
	@$(MAKE) --no-print-directory lint-man guests
	$(SWIFT) build --build-tests
	VMRUN_TEST_PROGRAM=$(CURDIR)/$(BINARY) $(SWIFT) test --skip-build --disable-xctest

# With the tests that take minutes, and the systems they boot, which share the host with no other test.
test-long:
	@.ci/packages build test debian
	@$(MAKE) --no-print-directory build
	@$(MAKE) --no-print-directory -C guests systems
	@$(MAKE) --no-print-directory lint-man guests
	$(SWIFT) build --build-tests
	VMRUN_TEST_LONG=1 $(SWIFT) test --skip-build --disable-xctest --skip MachineTests
	VMRUN_TEST_LONG=1 $(SWIFT) test --skip-build --disable-xctest --filter MachineTests

guests:
	@$(MAKE) --no-print-directory -C guests all

# `make bench BENCH="port start"` chooses: port, version, start, launch, seabios, integer, sse2, login, pv, microvm, devices,
# tap, virtio-blk.
bench:
	@.ci/packages build bench
	@$(MAKE) --no-print-directory build
	@$(MAKE) --no-print-directory build PRODUCT=vmrun-bench
	@$(MAKE) --no-print-directory -C guests build/portbench.rom build/first-byte.rom build/boot-sector.img build/virtioblk.rom build/pvh-exit.elf bench build/kernels/cloud-amd64 build/init.cpio debian.img debian-generic.img debian-bench.img
	@echo
	@.build/release/vmrun-bench $(BINARY) guests/build $(BENCH)

# What the compiler made of the software CPU's handlers.
.PHONY: check-handlers
check-handlers: build
	@.ci/check-handlers .build/release/SoftEngine.build

.PHONY: lint-man
lint-man:
	@.ci/packages lint
	@# Whether pages of the host are installed says nothing about ours.
	@problems=$$(cd man && mandoc -T lint -W style $(notdir $(MANUAL)) 2>&1 | \
	  grep -vE 'referenced manual not found|outdated mandoc.db|mandoc.db' || true); \
	  if [ -n "$$problems" ]; then echo "$$problems" >&2; exit 1; fi

lint: lint-man
	$(SWIFT) format lint -s -p -r $(SWIFT_SOURCES)
	@# A guest must not be able to stop the Swift runtime.
	@if grep -rnE '\<(try!|as!|fatalError\()' Sources --include='*.swift'; then \
	  echo "lint: no try!, as! or fatalError in Sources" >&2; exit 1; fi

format:
	$(SWIFT) format -i -p -r $(SWIFT_SOURCES)

# vmrun-devices(7) comes from the device registry.
man:
	$(SWIFT) build --product vmrun
	.build/debug/vmrun --generate-devices-man > man/vmrun-devices.7.new
	mv man/vmrun-devices.7.new man/vmrun-devices.7

$(BINARY):
	@$(MAKE) --no-print-directory build

install: $(BINARY)
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(MANDIR)/man1 $(DESTDIR)$(MANDIR)/man5 $(DESTDIR)$(MANDIR)/man7
	install -m 755 $(BINARY) $(DESTDIR)$(BINDIR)/vmrun
	install -m 644 man/*.1 $(DESTDIR)$(MANDIR)/man1/
	install -m 644 man/*.5 $(DESTDIR)$(MANDIR)/man5/
	install -m 644 man/*.7 $(DESTDIR)$(MANDIR)/man7/
	install -d $(DESTDIR)$(DATADIR)/bash-completion/completions $(DESTDIR)$(DATADIR)/zsh/site-functions \
	  $(DESTDIR)$(DATADIR)/fish/vendor_completions.d
	$(BINARY) --generate-completion-script bash > $(DESTDIR)$(DATADIR)/bash-completion/completions/vmrun
	$(BINARY) --generate-completion-script zsh > $(DESTDIR)$(DATADIR)/zsh/site-functions/_vmrun
	$(BINARY) --generate-completion-script fish > $(DESTDIR)$(DATADIR)/fish/vendor_completions.d/vmrun.fish

uninstall:
	rm -f $(DESTDIR)$(BINDIR)/vmrun $(addprefix $(DESTDIR)$(MANDIR)/man1/,$(notdir $(wildcard man/*.1))) \
	  $(addprefix $(DESTDIR)$(MANDIR)/man5/,$(notdir $(wildcard man/*.5))) \
	  $(addprefix $(DESTDIR)$(MANDIR)/man7/,$(notdir $(wildcard man/*.7))) \
	  $(DESTDIR)$(DATADIR)/bash-completion/completions/vmrun $(DESTDIR)$(DATADIR)/zsh/site-functions/_vmrun \
	  $(DESTDIR)$(DATADIR)/fish/vendor_completions.d/vmrun.fish

clean:
	rm -rf .build
	@if [ -f guests/Makefile ]; then $(MAKE) --no-print-directory -C guests clean; fi
