// jsonwebtoken with the key client that people use beside it, jwks-rsa.
import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import {test} from 'node:test';
import {promisify} from 'node:util';
import * as gcp from 'gcp-metadata';
import jwt from 'jsonwebtoken';
import jwks from 'jwks-rsa';

const doc = JSON.parse(readFileSync(process.env.GCEMDS_DOCUMENT, 'utf8'));
const keys = jwks({jwksUri: `${process.env.GCEMDS_ISSUER}/oauth2/v3/certs`});
const key = (header, done) => keys.getSigningKey(header.kid).then(k => done(null, k.getPublicKey()), done);
const verify = (token, audience) =>
  promisify(jwt.verify)(token, key, {algorithms: ['RS256'], audience, issuer: 'https://accounts.google.com'});

test('an ID token for its audience and no other', async () => {
  const audience = 'https://service.example.com';
  const token = await gcp.instance({property: 'service-accounts/default/identity', params: {audience, format: 'full'}});
  const claims = await verify(token, audience);
  assert.equal(claims.email, doc.instance.serviceAccounts.default.email);
  assert.equal(claims.google.compute_engine.project_id, doc.project.projectId);
  await assert.rejects(verify(token, 'other'), /audience invalid/);
});
