// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one place that names what sets of flags are declared by: the crate `bitflags`, or `impl_flags!` of the
//! Linux kernel. [`flags!`] takes what both need, and gives both the methods that the crate uses: `empty`, `all`,
//! `bits`, `from_bits_retain`, `is_empty`, `contains_all`, `contains_any`, `|`, `&` and `!`.
#![forbid(unsafe_code)]

use core::fmt;

/// Declares a set of flags; `const _` are bits that mean something, too, and have no name.
#[cfg(not(pinned_sgl_kbuild))]
macro_rules! flags {
    (
        $(#[$about:meta])*
        pub struct $set:ident($bits:ident) {
            $($(#[$doc:ident $($text:tt)*])* const $flag:ident = $value:expr;)+
            $(const _ = $unnamed:expr;)?
        }
    ) => {
        $(#[$about])*
        pub struct $set($bits);

        // As an `impl`: what the macro adds to a type of its own is a parser, which could panic.
        bitflags::bitflags! {
            impl $set: $bits {
                $($(#[$doc $($text)*])* const $flag = $value;)+
                $(const _ = $unnamed;)?
            }
        }

        impl $set {
            #[allow(dead_code, reason = "not every set is asked for every one of them")]
            pub(crate) const fn contains_all(self, flags: Self) -> bool {
                self.contains(flags)
            }

            #[allow(dead_code, reason = "as above")]
            pub(crate) const fn contains_any(self, flags: Self) -> bool {
                self.intersects(flags)
            }
        }
    };
}

/// Writes a set of flags for `Debug`: `Name(ONE | OTHER | 0x80)`.
#[cfg(not(pinned_sgl_kbuild))]
pub(crate) fn write<F: bitflags::Flags<Bits = u32>>(
    name: &str,
    set: &F,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    write!(f, "{name}(")?;
    bitflags::parser::to_writer(set, &mut *f)?;
    f.write_str(")")
}

/// Declares a set of flags; `const _` are bits that mean something, too, and have no name.
#[cfg(pinned_sgl_kbuild)]
macro_rules! flags {
    (
        $(#[$about:meta])*
        pub struct $set:ident($bits:ident) {
            $($(#[$doc:ident $($text:tt)*])* const $flag:ident = $value:expr;)+
            $(const _ = $unnamed:expr;)?
        }
    ) => {
        ::kernel::impl_flags! {
            $(#[$about])*
            pub struct $set($bits);

            /// One flag of the set.
            #[allow(
                dead_code,
                unreachable_pub,
                non_camel_case_types,
                reason = "named as the constants of the set are"
            )]
            #[derive(Clone, Copy, Debug)]
            pub enum Flag {
                $($(#[$doc $($text)*])* $flag = $value,)+
                $(
                    /// Bits without a name.
                    Unnamed = $unnamed,
                )?
            }
        }

        impl $set {
            $($(#[$doc $($text)*])* pub const $flag: Self = Self($value);)+

            /// All bits that mean something.
            #[must_use]
            pub const fn all() -> Self {
                Self(Self::all_bits())
            }

            /// The bits of the set.
            #[must_use]
            pub const fn bits(self) -> $bits {
                self.0
            }

            /// A set of these bits, whatever they mean.
            #[must_use]
            pub const fn from_bits_retain(bits: $bits) -> Self {
                Self(bits)
            }

            /// Whether no bit is set.
            #[must_use]
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }
        }

        impl $crate::flags::Named<$bits> for $set {
            const NAMES: &'static [(&'static str, $bits)] = &[$((stringify!($flag), $value)),+];
        }
    };
}

/// The names of flags.
#[cfg(pinned_sgl_kbuild)]
pub(crate) trait Named<Bits: 'static>: Copy + Into<Bits> {
    const NAMES: &'static [(&'static str, Bits)];
}

/// Writes a set of flags for `Debug`: `Name(ONE | OTHER | 0x80)`.
#[cfg(pinned_sgl_kbuild)]
pub(crate) fn write<F: Named<u32>>(name: &str, set: &F, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (mut left, mut between): (u32, _) = ((*set).into(), "");
    write!(f, "{name}(")?;
    for (flag, bits) in F::NAMES {
        if left & bits != 0 {
            write!(f, "{between}{flag}")?;
            (left, between) = (left & !bits, " | ");
        }
    }
    if left != 0 {
        write!(f, "{between}{left:#x}")?;
    }
    f.write_str(")")
}

pub(crate) use flags;
