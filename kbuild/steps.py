# SPDX-License-Identifier: MIT OR Apache-2.0
"""The patches of `series`, in order: which files each of them adds, what it changes, and why."""

# Texts that are about this repository, and what stands there in a kernel's tree.
TEXTS = {
    "src/lib.rs": [
        ("//! | [`cookbook`] | recipes: short answers to \"how do I\", each of them a test |\n", ""),
        (
            "//! | [`contracts`] | every promise that `unsafe` stands for: what keeps it, what relies on it, which test shows it |\n",
            "",
        ),
        ("//! | `linux` | feature `linux`: really pinned memory of this process |\n", ""),
        (
            "//! | `kernel` | feature `kernel`: the same in the Linux kernel, and domains of its IOMMUs |\n",
            "//! | [`kernel`] | the same for this kernel: pins, domains of its IOMMUs, memory |\n",
        ),
        (
            " this table only. Memory, processes, IOMMUs and devices for tests, which\n"
            "//! catch every mistake, are a crate of their own: `pinned-sgl-mock`.\n",
            " this list only.\n",
        ),
        (
            "//! # Features\n"
            "//!\n"
            "//! | feature | adds |\n"
            "//! |---|---|\n"
            "//! | `alloc` (default) | `Heap`, lists on the heap; without it lists live in a [`Pool`] lent by the caller |\n"
            "//! | `std` | the standard library: `Umem::pin_parallel` |\n"
            "//! | `arbitrary` | `Arbitrary` for addresses, sizes, runs, ranges, limits and flags, for fuzzers |\n"
            "//! | `linux` | `linux::Buffer`: memory pinned through io_uring, its frames read from the pagemap |\n"
            "//! | `kernel` | the Linux kernel's own pins, IOMMU domains and memory; compiled by Kbuild, and by cargo documented only |\n"
            "//!\n",
            "//! # Where `unsafe` stands\n//!\n",
        ),
    ],
}

TEXTS["src/kernel/mod.rs"] = [("mod foundation;\n", "")]

# Sections that are about this repository; Documentation/rust/pinned-sgl.rst has what is true there.
SECTIONS_OUT = {"src/kernel/mod.rs": ["How a driver takes the crate"]}

# What changes in files that are there: the file, a text that it has once, and what stands there instead.
EDITS = {
    "rust": (
        "rust/Makefile",
        "obj-$(CONFIG_RUST) += exports.o\n",
        "obj-$(CONFIG_RUST) += exports.o\n\nobj-$(CONFIG_RUST_PINNED_SGL) += pinned_sgl/\n",
    ),
    "rust-order": (
        "rust/Makefile",
        "endif # CONFIG_RUST\n",
        "# A crate with a folder of its own is compiled against these.\n"
        "$(obj)/pinned_sgl: $(obj)/kernel.o\n\nendif # CONFIG_RUST\n",
    ),
    "kconfig": (
        "init/Kconfig",
        'source "rust/kernel/Kconfig.test"\n',
        'source "rust/kernel/Kconfig.test"\nsource "rust/pinned_sgl/Kconfig"\n',
    ),
    "gup": ("rust/kernel/mm.rs", "pub mod virt;\n", "#[cfg(CONFIG_MMU)]\npub mod gup;\npub mod virt;\n"),
    "gup-c": ("rust/helpers/helpers.c", '#include "gpu.c"\n', '#include "gpu.c"\n#ifdef CONFIG_MMU\n#include "gup.c"\n#endif\n'),
    "memlock": ("rust/kernel/mm.rs", "pub mod gup;\n", "pub mod gup;\npub mod memlock;\n"),
    "memlock-c": ("rust/helpers/helpers.c", '#include "mm.c"\n', '#include "memlock.c"\n#include "mm.c"\n'),
    "iommu": ("rust/kernel/iommu/mod.rs", "pub mod pgtable;\n", "#[cfg(CONFIG_IOMMU_API)]\npub mod domain;\npub mod pgtable;\n"),
    "iommu-c": (
        "rust/helpers/helpers.c",
        '#include "irq.c"\n',
        '#ifdef CONFIG_IOMMU_API\n#include "iommu_domain.c"\n#endif\n#include "irq.c"\n',
    ),
    "runs": (
        "rust/kernel/scatterlist.rs",
        "use core::{ops::Deref, ptr::NonNull};\n",
        "use core::{ops::Deref, ptr::NonNull};\n\npub mod run_table;\n",
    ),
    "runs-c": ("rust/helpers/helpers.c", '#include "scatterlist.c"\n', '#include "run_table.c"\n#include "scatterlist.c"\n'),
    "sample": (
        "samples/rust/Makefile",
        "obj-$(CONFIG_SAMPLE_RUST_PRINT)			+= rust_print.o\n",
        "obj-$(CONFIG_SAMPLE_RUST_PINNED_SGL_EDU)	+= pinned_sgl_edu/\n"
        "obj-$(CONFIG_SAMPLE_RUST_PRINT)			+= rust_print.o\n",
    ),
    "sample-kconfig": (
        "samples/rust/Kconfig",
        "config SAMPLE_RUST_PRINT\n",
        "config SAMPLE_RUST_PINNED_SGL_EDU\n"
        '	tristate "Pinned memory, copied by QEMU\'s edu device"\n'
        "	depends on PCI && DEBUG_FS && RUST_PINNED_SGL\n"
        "	help\n"
        "	  This option builds a driver for QEMU's edu device, with which a\n"
        "	  program copies its own memory by DMA.\n"
        "\n"
        "	  To compile this as a module, choose M here:\n"
        "	  the module will be called pinned_sgl_edu.\n"
        "\n"
        "	  If unsure, say N.\n"
        "\n"
        "config SAMPLE_RUST_PRINT\n",
    ),
    "selftests": (
        "tools/testing/selftests/Makefile",
        "TARGETS += pid_namespace\n",
        "TARGETS += pid_namespace\nTARGETS += pinned_sgl\n",
    ),
    "docs": ("Documentation/rust/index.rst", "    arch-support\n", "    arch-support\n    pinned-sgl\n"),
    "maintainers": (
        "MAINTAINERS",
        "RUST [PIN-INIT]\n",
        "RUST [PINNED-SGL]\n"
        "M:	@PERSON@\n"
        "L:	rust-for-linux@vger.kernel.org\n"
        "S:	Maintained\n"
        "F:	Documentation/rust/pinned-sgl.rst\n"
        "F:	rust/helpers/gup.c\n"
        "F:	rust/helpers/iommu_domain.c\n"
        "F:	rust/helpers/memlock.c\n"
        "F:	rust/helpers/run_table.c\n"
        "F:	rust/kernel/iommu/domain.rs\n"
        "F:	rust/kernel/scatterlist/run_table.rs\n"
        "F:	rust/pinned_sgl/\n"
        "F:	samples/rust/pinned_sgl_edu/\n"
        "F:	tools/testing/selftests/pinned_sgl/\n"
        "\n"
        "RUST [PIN-INIT]\n",
    ),
    "vfio": (
        "drivers/vfio/Makefile",
        "obj-$(CONFIG_VFIO_IOMMU_TYPE1) += vfio_iommu_type1.o\n",
        "obj-$(CONFIG_VFIO_IOMMU_TYPE1) += vfio_iommu_type1.o\nobj-$(CONFIG_VFIO_TYPE1_SGL) += type1_sgl/\n",
    ),
    "vfio-kconfig": (
        "drivers/vfio/Kconfig",
        "config VFIO_IOMMU_SPAPR_TCE\n",
        "config VFIO_TYPE1_SGL\n"
        '	tristate "VFIO IOMMU Type1 on packed scatterlists (Rust)"\n'
        "	depends on VFIO_CONTAINER && RUST_PINNED_SGL && m\n"
        "	help\n"
        "	  A backend with the interface of VFIO_IOMMU_TYPE1, which keeps what\n"
        "	  it has pinned in lists and does not ask the IOMMU for it. Only one\n"
        "	  of both can be loaded.\n"
        "\n"
        "	  If unsure, say N.\n"
        "\n"
        "config VFIO_IOMMU_SPAPR_TCE\n",
    ),
}

CRATE = "rust/pinned_sgl/"

STEPS = [
    {
        "subject": "rust: mm: pin pages of user space",
        "body": """
Drivers in Rust that show user memory to devices have no way to pin it. Add
owned pins over pin_user_pages_fast() and its sisters, of the calling process
and of others. Loops that look at each page are C: page structures are found and
compared by inline functions.
""",
        "files": "rust/(kernel/mm|helpers)/gup",
        "edits": ["gup", "gup-c"],
    },
    {
        "subject": "rust: mm: count pages against RLIMIT_MEMLOCK",
        "body": """
Whoever pins on behalf of user space counts: in mm->pinned_vm as RDMA, in
mm->locked_vm as vfio, or in user->locked_vm as io_uring and iommufd. Add the
three counters, with killable locks, and a warning where less is counted than is
given back.
""",
        "files": "rust/(kernel/mm|helpers)/memlock",
        "edits": ["memlock", "memlock-c"],
    },
    {
        "subject": "rust: iommu: add domains that a driver fills",
        "body": """
A device is attached to a paging domain of its own, which nothing else moves it
out of: its DMA is claimed as vfio and iommufd claim it, the window of interrupts
is mapped where that is done by software, and accesses are coherent. A driver
that leaves a device behind leaves it blocked.
""",
        "files": "rust/kernel/iommu/|rust/helpers/iommu_domain",
        "edits": ["iommu", "iommu-c"],
    },
    {
        "subject": "rust: scatterlist: make tables of runs",
        "body": """
SGTable is made of memory of the kernel. Add a table of runs of frames, such as
those of pinned pages, with mapping, attributes and syncs as separate steps.
""",
        "files": "rust/kernel/scatterlist/|rust/helpers/run_table",
        "edits": ["runs", "runs-c"],
    },
    {
        "subject": "rust: pinned_sgl: add a crate with addresses and page sizes",
        "body": """
Drivers that show user memory to devices keep which pages these are: 8 bytes a
page in an array, or 32 bytes for each run in a scatterlist. What follows is a
crate for this: a packed list, regions that are pinned, and IOMMU domains.

Drivers share one copy of it, built in or as a module, so that it exports its
functions as rust/exports.c does for those of rust/. Begin with what all of it
uses: physical, user and I/O addresses as types of their own, sets of page
sizes, and arithmetic that cannot overflow.
""",
        "files": CRATE + r"((abridged|addr|asserts|exact|failed|flags|iova_range|sync)\.rs|page_size/|Makefile$|Kconfig$|exports)",
        "edits": ["rust", "rust-order", "kconfig"],
    },
    {
        "subject": "rust: pinned_sgl: add the list",
        "body": """
A list holds the maximal physically contiguous runs of its pages. Each group of
runs is kept as differences to the lowest frame, in as many bits as these need:
2 to 5 bytes a run in long lists. A directory by position finds any byte.

The memory of a list comes in pieces of at most a page, fallibly, and is never
copied to grow.
""",
        "files": CRATE + r"(store|sgl)/",
    },
    {
        "subject": "rust: pinned_sgl: break lists up for devices",
        "body": """
A scatter-gather engine wants segments under its limits, an RDMA NIC blocks of
one size, an IOMMU the exact arguments of its map calls. The limits of a device
are arguments of iteration, so that one list is for all of them.
""",
        "files": CRATE + "granule/",
    },
    {
        "subject": "rust: pinned_sgl: write lists as devices read them",
        "body": """
NVMe takes PRPs or an SGL, other devices arrays of pages or pairs of address and
length: the same iteration fills each of them, and says where it had to stop.
""",
        "files": CRATE + "descriptor/",
    },
    {
        "subject": "rust: pinned_sgl: add pinned regions",
        "body": """
A region charges pages, pins them, and knows what shows them to devices: it is
unpinned when the last device has let go, and stays pinned if that is not known.
What pins and what counts are traits, which follow in their own patch.
""",
        "files": CRATE + "umem/",
    },
    {
        "subject": "rust: pinned_sgl: add address spaces of devices",
        "body": """
A mapping shows a window of a region in one domain; an address space is a tree
of many mappings in several domains, as a container of vfio and an IOAS of
iommufd are. Types enforce that a page is unpinned after it was unmapped and
flushed. A stream maps batch by batch and stores nothing.
""",
        "files": CRATE + "iommu/",
    },
    {
        "subject": "rust: pinned_sgl: add memory regions of network cards",
        "body": """
A card that translates by itself gets blocks of one size behind a key. The
region is held until the key was invalidated.
""",
        "files": CRATE + "rdma/",
    },
    {
        "subject": "rust: pinned_sgl: pin, charge and map by this kernel",
        "body": """
The traits of the crate over pin_user_pages_fast(), mm->pinned_vm and
mm->locked_vm, struct iommu_domain, the DMA API and kmalloc(). A driver needs no
unsafe code to pin memory, map it in a domain, unmap and unpin it.
""",
        "files": CRATE + "kernel/",
    },
    {
        "subject": "rust: pinned_sgl: add KUnit tests",
        "body": """
Lists of random pages against an array with an entry a page, and a domain that
sleeps wherever another thread can come in between, and notes what goes wrong.
The examples of the documentation are tests of their own.
""",
        "files": CRATE + "tests/",
        "fragment": ".tests",
    },
    {
        "subject": "samples: rust: copy pinned memory with QEMU's edu device",
        "body": """
A whole driver on pinned_sgl: it pins memory of the calling program, and lets
the device copy it, through the DMA API or in an IOMMU domain of its own.
""",
        "files": "samples/",
        "edits": ["sample", "sample-kconfig"],
    },
    {
        "subject": "selftests: pin memory of all kinds by pinned_sgl",
        "body": """
A program pins its own memory and compares the list with /proc/self/pagemap:
small and huge pages, memfds, movable memory, limits, and each allocation made
to fail in turn. A driver for QEMU's pci-testdev does it on its behalf.
""",
        "files": "tools/|" + CRATE + "selftest/",
        "edits": ["selftests"],
        "fragment": ".selftest",
    },
    {
        "subject": "Documentation: rust: describe pinned_sgl",
        "body": """
How a driver uses the crate, where to find what, and how it is tested.
""",
        "files": "Documentation/",
        "edits": ["docs"],
    },
    {
        "subject": "MAINTAINERS: add pinned_sgl",
        "body": """
The crate, its sample, tests and documentation.
""",
        "files": "MAINTAINERS",
        "edits": ["maintainers"],
    },
    {
        "subject": "vfio: add a type1 backend on packed scatterlists",
        "body": """
The backend of vfio in C finds what it has pinned by asking the IOMMU for every
page that it unmaps. This one has a list, with the interface and the answers of
the other one.

Whether vfio should have a second backend is the question of this patch. It
shows that the crate carries a whole one.
""",
        "files": "drivers/vfio/",
        "edits": ["vfio", "vfio-kconfig"],
        "rfc": True,
    },
]
