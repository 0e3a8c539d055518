// SPDX-License-Identifier: MIT OR Apache-2.0
//! What this folder uses of the crate `kernel`, by name: for rustdoc, which reads signatures and never
//! looks into functions, so that cargo documents what Kbuild alone compiles. No code is made of it. None
//! of its types has a value; they are [`Send`], [`Sync`] and [`Unpin`] where those of a kernel are.
#![allow(non_camel_case_types, reason = "the names of C")]

use core::convert::Infallible;
use core::marker::{PhantomData, PhantomPinned};

macro_rules! types {
    ($($name:ident)*) => {$(
        #[derive(Clone, Copy, Debug)]
        pub enum $name {}
    )*};
}

/// Structures of C, as they have pointers in them.
macro_rules! structs {
    ($($name:ident)*) => {$(
        pub struct $name(crate::kernel::kernel::No<*mut ()>);
    )*};
}

/// What leads to a value of type `$to`.
macro_rules! pointers {
    ($($name:ident<$T:ident $(: $bound:ident)?> to $to:ty;)*) => {$(
        pub struct $name<$T $(: ?$bound)?>(crate::kernel::kernel::No<$T>);

        impl<$T $(: ?$bound)?> core::ops::Deref for $name<$T> {
            type Target = $to;

            fn deref(&self) -> &$to {
                match self.0.0 {}
            }
        }

        impl<$T $(: ?$bound)?> core::ops::DerefMut for $name<$T> {
            fn deref_mut(&mut self) -> &mut $to {
                match self.0.0 {}
            }
        }

        impl<$T $(: ?$bound)?> Unpin for $name<$T> {}

        impl<$T $(: ?$bound)?> Clone for $name<$T> {
            fn clone(&self) -> Self {
                match self.0.0 {}
            }
        }
    )*};
}

pub struct No<T: ?Sized>(Infallible, PhantomData<T>);

/// What stays where it is.
pub struct Pinned<T: ?Sized>(No<T>, PhantomPinned);

pub mod alloc {
    types!(Flags);
    pointers! {
        KBox<T: Sized> to T;
        KVec<T> to [T];
    }

    impl<T> Default for KVec<T> {
        fn default() -> Self {
            panic!("no code is made of this")
        }
    }
}

pub mod bindings {
    types!(FOLL_FORCE FOLL_LONGTERM FOLL_NOFAULT FOLL_WRITE);
    types!(dma_data_direction gfp_t);
    structs!(device iommu_domain iommu_iotlb_gather mm_struct page scatterlist sg_table task_struct user_struct);

    pub const PAGE_SIZE: usize = 4096;
}

pub mod device {
    pub use super::Pinned as Device;
    types!(Bound);
}

pub mod devres {
    pub struct DevresLt<F>(super::No<F>);
}

pub mod dma {
    types!(Attrs DataDirection);

    pub struct Coherent<T: ?Sized>(super::No<T>);

    pub mod attrs {
        types!(DMA_ATTR_MMIO);
    }
}

pub mod error {
    types!(Error code from_err_ptr to_result);

    pub type Result<T = (), E = Error> = core::result::Result<T, E>;
}

pub mod ffi {
    types!(c_int c_long c_uint c_ulong c_void);
}

pub mod fmt {
    pub use core::fmt::{Formatter, Result};

    pub trait Display {
        fn fmt(&self, f: &mut Formatter<'_>) -> Result;
    }
}

pub mod io {
    types!(PhysAddr);
}

pub mod iommu {
    pub mod pgtable {
        types!(ARM64LPAES1);

        pub struct IoPageTable<'a, Format>(crate::kernel::kernel::No<&'a Format>);
    }
}

pub mod mm {
    types!(Mm MmWithUser);
}

pub mod prelude {
    types!(InPlaceInit pin_data);

    pub trait PinInit<T> {}

    macro_rules! pin_init {
        ($($all:tt)*) => {
            panic!("no code is made of this")
        };
    }
    pub(crate) use pin_init;
}

pub mod ptr {
    pub trait KnownSize {}
}

pub mod scatterlist {
    types!(SGTable);
}

pub mod sync {
    pub use super::Pinned as Mutex;
    pointers!(Arc<T: Sized> to T;);

    pub mod lock {
        pub struct Guard<'a, T: ?Sized, B>(crate::kernel::kernel::No<(&'a B, *mut T)>);

        pub mod mutex {
            types!(MutexBackend);
        }
    }

    pub mod aref {
        pointers!(ARef<T> to T;);

        pub trait AlwaysRefCounted {}
    }
}

pub mod task {
    types!(CurrentTask Task);
}

pub mod types {
    pub type Opaque<T> = super::Pinned<core::cell::UnsafeCell<T>>;

    pub trait ForLt {
        type Of<'a>: 'a;
    }

    pub unsafe trait CovariantForLt: ForLt {}
}

macro_rules! new_mutex {
    ($($all:tt)*) => {
        panic!("no code is made of this")
    };
}
pub(crate) use new_mutex;
