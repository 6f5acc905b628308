EXTENSION = inventory
EXTVERSION = $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" inventory.control)
MODULE_big = inventory
OBJS = $(patsubst %.c,%.o,$(wildcard src/*.c))
PGFILEDESC = "inventory - inventory engine"

# The install script is joined from one file per capability, in this order.
SQL = schema clock catalog event outbox subscription delivery partition tick request movement reservation \
	availability projection stat progress archive maintenance history chain worker verify rebuild restore access
DATA = $(wildcard sql/upgrade/$(EXTENSION)--*.sql)
DATA_built = $(EXTENSION)--$(EXTVERSION).sql
EXTRA_CLEAN = $(EXTENSION)--*.sql

PG_CPPFLAGS = -I$(srcdir)/src -DINVENTORY_VERSION='"$(EXTVERSION)"'
PG_CFLAGS = -Wall -Wextra -Werror -Wno-unused-parameter \
	-Wno-missing-field-initializers -Wno-sign-compare

# For a running server that preloads the library; `make test` starts its own.
REGRESS = $(sort $(patsubst test/sql/%.sql,%,$(wildcard test/sql/*.sql)))
REGRESS_OPTS = --inputdir=test

# These install what they need, PostgreSQL included, and come back to this file
# for `all` and `install`, so they must work where there is no PGXS yet.
COMMANDS = demo demo-stop test bench test-versions check-clang
.PHONY: all $(COMMANDS)
all:
$(COMMANDS):
	+@scripts/$@

ifeq ($(filter $(COMMANDS),$(MAKECMDGOALS)),)
PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
# Bitcode serves the inlining of cheap functions into expressions; there are none.
override with_llvm = no
include $(PGXS)

$(OBJS): $(wildcard src/*.h) Makefile

# \quit keeps psql from running the script without CREATE EXTENSION.
$(DATA_built): $(SQL:%=sql/%.sql) Makefile inventory.control
	printf '%s\n' '\echo Use "CREATE EXTENSION $(EXTENSION)" to load this file. \quit' > $@
	cat $(SQL:%=sql/%.sql) >> $@
endif
