using Google.Apis.Auth.OAuth2;

var credential = (await GoogleCredential.GetApplicationDefaultAsync())
    .CreateScoped("https://www.googleapis.com/auth/cloud-platform");
var token = await credential.UnderlyingCredential.GetAccessTokenForRequestAsync();
Console.WriteLine($"a token of {token.Length} characters");
