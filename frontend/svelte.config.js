/** Runes everywhere; styles live in src/*.css, so that pages and islands share one sheet. */
export default { compilerOptions: { runes: true } };
