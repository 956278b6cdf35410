################################################################################
#
# headgate
#
################################################################################

HEADGATE_VERSION = local
HEADGATE_SITE = $(BR2_EXTERNAL_HEADGATE_PATH)/..
HEADGATE_SITE_METHOD = local
HEADGATE_LICENSE = GPL-3.0-or-later
HEADGATE_LICENSE_FILES = LICENSE
# What was built from the sources is not copied with them.
HEADGATE_OVERRIDE_SRCDIR_RSYNC_EXCLUSIONS = \
	--filter=':- .gitignore' --exclude /.git
# legal-info would archive that directory as it stands, with all that was built
# in it, its own output included: the copy is what is archived.
HEADGATE_REDISTRIBUTE = NO
define HEADGATE_ARCHIVE_SOURCES
	mkdir -p $(HEADGATE_REDIST_SOURCES_DIR)
	$(TAR) -czf $(HEADGATE_REDIST_SOURCES_DIR)/$(HEADGATE_BASENAME_RAW).tar.gz \
		--sort=name --owner=0 --group=0 --numeric-owner \
		--exclude=./target --exclude='./.stamp_*' --exclude='./.files-list*' \
		-C $(HEADGATE_DIR) .
endef
HEADGATE_POST_LEGAL_INFO_HOOKS += HEADGATE_ARCHIVE_SOURCES

HEADGATE_TRIPLE = x86_64-unknown-linux-gnu

ifeq ($(BR2_PACKAGE_HEADGATE_PREBUILT),y)
HEADGATE_PROGRAMS = $(call qstrip,$(BR2_PACKAGE_HEADGATE_PROGRAMS))
HEADGATE_ADD_TOOLCHAIN_DEPENDENCY = NO
else
HEADGATE_PROGRAMS = $(@D)/target/$(HEADGATE_TRIPLE)/release
HEADGATE_CARGO_ENV = $(TARGET_CONFIGURE_OPTS)
ifeq ($(BR2_PACKAGE_HEADGATE_CARGO),y)
HEADGATE_DEPENDENCIES += host-rustc
HEADGATE_CARGO_ENV += $(PKG_CARGO_ENV)
endif
HEADGATE_CARGO_ENV += \
	CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=$(TARGET_CC) \
	RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=$(@D)=headgate"

define HEADGATE_BUILD_CMDS
	cd $(@D) && $(HEADGATE_CARGO_ENV) cargo build --release --locked \
		$(if $(wildcard $(HEADGATE_SITE)/vendor),--offline) \
		--target $(HEADGATE_TRIPLE) --target-dir $(@D)/target \
		-p headgate -p headgate-init
endef
endif

define HEADGATE_INSTALL_TARGET_CMDS
	$(INSTALL) -D -m 0755 $(HEADGATE_PROGRAMS)/headgated \
		$(TARGET_DIR)/usr/sbin/headgated
	$(INSTALL) -D -m 0755 $(HEADGATE_PROGRAMS)/headgate-init \
		$(TARGET_DIR)/usr/sbin/headgate-init
	$(INSTALL) -D -m 0755 $(HEADGATE_PROGRAMS)/headgate \
		$(TARGET_DIR)/usr/bin/headgate
endef

$(eval $(generic-package))
