// SPDX-License-Identifier: MIT OR Apache-2.0
// HTTPS with a key that is good for nothing but this test.
'use strict';
const https = require('node:https');

const key = `
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgu0ZE8oqRernwD1gO
1GGhkJS7aj3i1npnwDrjySXe6zShRANCAAT9NA0XJREkEfx07nrat1EPWFll3dO7
SOKPEQEQSAl0+BiLCMHlpWx/GoBJyBZAnUnw2Yt+0sZo9awiX1vXZHdH
-----END PRIVATE KEY-----
`;
const cert = `
-----BEGIN CERTIFICATE-----
MIIBfzCCASWgAwIBAgIUTZXFe6vyyVAQimK8ElIG4RXmp58wCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMTE3NDM0MVoYDzIxMjYxMDI4
MTc0MzQxWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAT9NA0XJREkEfx07nrat1EPWFll3dO7SOKPEQEQSAl0+BiLCMHlpWx/
GoBJyBZAnUnw2Yt+0sZo9awiX1vXZHdHo1MwUTAdBgNVHQ4EFgQUm82wHCQeABsp
4A6VXdVYE23Pz/AwHwYDVR0jBBgwFoAUm82wHCQeABsp4A6VXdVYE23Pz/AwDwYD
VR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiEAuYnfBTjHRqa+iBJky1ea
7O7NnIbW/yRzqQHz2tWLhaECIHugk0jkV2mMNdyv+zxq4f+gG/apW5RBM3VmOkfz
5J8O
-----END CERTIFICATE-----
`;
https
  .createServer({ key, cert }, (request, response) => response.end(String(process.pid)))
  .listen(process.env.PORT);
