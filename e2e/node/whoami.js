// google-auth-library says who it finds that it is, as a line of JSON: whoami.js [AUDIENCE of an ID token].
import {Compute, GoogleAuth} from 'google-auth-library';

const auth = new GoogleAuth({scopes: ['https://www.googleapis.com/auth/cloud-platform']});
const me = {
  project: await auth.getProjectId(),
  email: (await auth.getCredentials()).client_email,
  token: await auth.getAccessToken(),
};
if (process.argv[2]) {
  me.idToken = await new Compute().fetchIdToken(process.argv[2]);
}
console.log(JSON.stringify(me));
