// jose, which takes the keys of our issuer for Google's.
import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import {test} from 'node:test';
import * as gcp from 'gcp-metadata';
import {createRemoteJWKSet, jwtVerify} from 'jose';

const text = readFileSync(process.env.GCEMDS_DOCUMENT, 'utf8');
const doc = JSON.parse(text);
const license = /"licenses":\s*\[\s*\{\s*"id":\s*"?(\d+)/.exec(text)[1];
const keys = createRemoteJWKSet(new URL(`${process.env.GCEMDS_ISSUER}/oauth2/v3/certs`));
const audience = 'https://service.example.com';
const identity = params => gcp.instance({property: 'service-accounts/default/identity', params: {audience, ...params}});
const verify = (token, audience, issuer = 'https://accounts.google.com') => jwtVerify(token, keys, {audience, issuer, algorithms: ['RS256']});

test('standard', async () => {
  const {payload} = await verify(await identity({}), audience);
  assert.equal(payload.sub, payload.azp);
  assert.ok(payload.sub);
  assert.equal(payload.exp - payload.iat, 3600);
  assert.equal(payload.google, undefined);
});

test('full, with licences', async () => {
  const {payload} = await verify(await identity({format: 'full', licenses: 'TRUE'}), audience);
  assert.equal(payload.email, doc.instance.serviceAccounts.default.email);
  assert.equal(payload.google.compute_engine.instance_name, doc.instance.name);
  assert.deepEqual(payload.google.compute_engine.license_id, [license]);
});

test('another audience, another issuer, another signature', async () => {
  const token = await identity({});
  await assert.rejects(verify(token, 'other'), {code: 'ERR_JWT_CLAIM_VALIDATION_FAILED', claim: 'aud'});
  await assert.rejects(verify(token, audience, 'https://other.example.com'), {code: 'ERR_JWT_CLAIM_VALIDATION_FAILED', claim: 'iss'});
  const forged = token.replace(/[^.]+$/, (await identity({audience: 'other'})).split('.')[2]);
  await assert.rejects(verify(forged, audience), {code: 'ERR_JWS_SIGNATURE_VERIFICATION_FAILED'});
});
