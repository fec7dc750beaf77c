import com.google.auth.oauth2.AccessToken;
import com.google.auth.oauth2.ComputeEngineCredentials;
import com.google.auth.oauth2.GoogleCredentials;

public class Main {
  public static void main(String[] args) throws Exception {
    GoogleCredentials credentials = GoogleCredentials.getApplicationDefault();
    AccessToken token = credentials.refreshAccessToken();
    String account = ((ComputeEngineCredentials) credentials).getAccount();
    System.out.println(account + ": a token, good until " + token.getExpirationTime());
  }
}
