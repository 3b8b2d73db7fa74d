// No dependency is declared, not even as a peer: npm takes whatever a bundled package depends on to be in the bundle,
// and would install an empty directory. sparkablate itself depends on @napi-rs/canvas.
module.exports = require("@napi-rs/canvas");
