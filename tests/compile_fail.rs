// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mistakes that do not compile. What the compiler says is kept beside each of them: that it is
//! refused for the right reason.

#[test]
fn mistakes_do_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
