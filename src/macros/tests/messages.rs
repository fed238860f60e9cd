//! What the compiler says where the attribute makes no sense, and where it says it.

#[test]
fn what_makes_no_sense_is_refused_by_the_compiler_at_its_place() {
    trybuild::TestCases::new().compile_fail("tests/refused/*.rs");
}
