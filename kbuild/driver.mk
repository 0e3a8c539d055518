# SPDX-License-Identifier: MIT OR Apache-2.0
#
# For the Kbuild file of a driver that uses the crate. Its make is run with
#
#     PINNED_SGL=/where/pinned_sgl/was/built KBUILD_EXTRA_SYMBOLS=$PINNED_SGL/Module.symvers
#
# In:  PINNED_SGL           the folder of the module, built
# Out: pinned-sgl-extern    the flags with which a crate of the driver finds this one:
#                               RUSTFLAGS_driver_main.o := $(pinned-sgl-extern)
#      pinned-sgl-ready     what such a crate is compiled again for:
#                               $(obj)/driver_main.o: $(pinned-sgl-ready)

pinned-sgl-extern := -L$(PINNED_SGL) --extern pinned_sgl=$(PINNED_SGL)/libpinned_sgl.rmeta
pinned-sgl-ready := $(PINNED_SGL)/libpinned_sgl.rmeta
