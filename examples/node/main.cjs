const {GoogleAuth} = require('google-auth-library');

async function main() {
  const auth = new GoogleAuth({scopes: 'https://www.googleapis.com/auth/cloud-platform'});
  const project = await auth.getProjectId();
  const token = await auth.getAccessToken();
  console.log(`${project}: a token of ${token.length} characters`);
}

main();
